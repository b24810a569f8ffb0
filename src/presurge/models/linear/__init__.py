"""The exact linear family: sums over windows, one solver, and the two models that stand on them."""
