"""How long networks will take on devices: profiles and predictions."""
