"""The affine algebra: what folds, where it may go, and past which operators."""
