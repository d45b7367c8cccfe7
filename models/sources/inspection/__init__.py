"""What a model's files say before anything is built: which of them count, what they hold, what is wrong with them."""
