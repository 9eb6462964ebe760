"""Tables, numbers and plots for people."""
