"""How long networks will take on devices: profiles, predictions, and measuring a profile."""
