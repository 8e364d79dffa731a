"""How fast longlag is, beside what a user would otherwise write; ``make bench`` runs all of it."""
