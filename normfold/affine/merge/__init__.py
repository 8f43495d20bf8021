"""Structural merges: linear operators that become one, because a sum or a product of linear maps is a linear map."""
