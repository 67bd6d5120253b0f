"""How far to trust a sonification."""
