"""How the miniature is made: problems, tokenizer, training, measurement."""
