"""How good an answer is: house metrics and published conventions; `catalogue.named` finds one by its name."""
