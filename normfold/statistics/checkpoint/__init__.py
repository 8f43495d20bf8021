"""The training side: what a checkpoint says about the statistics, and about the weights that they were folded into."""
