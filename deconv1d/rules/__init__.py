"""How each op carries a signal back: the table, and what it is made of."""
