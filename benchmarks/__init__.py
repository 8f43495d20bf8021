"""Side-by-side measurements of normfold against named peers, and its scale goals; see README.md here."""
