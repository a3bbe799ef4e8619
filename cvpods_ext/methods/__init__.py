"""One folder per paper: its config, its loss, its detector, and its definition beside the loss."""
