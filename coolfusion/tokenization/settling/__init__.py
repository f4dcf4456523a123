"""What is settled of a text, whatever may follow it: shown by how its tokenizer works."""
