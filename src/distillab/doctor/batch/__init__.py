"""What a trainer is given: the batches of any data collator."""
