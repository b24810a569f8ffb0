"""The one training loop: a task gives batches and named losses, the loop gives everything else. Needs torch."""
