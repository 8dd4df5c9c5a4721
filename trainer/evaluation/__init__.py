"""What an adapter does, measured: effect, leak, collateral, validation loss, and what to use."""
