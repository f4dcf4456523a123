"""What comes from outside, checked before it is used: arguments, and JSON."""
