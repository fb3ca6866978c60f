"""Any network on a grid becomes a neural operator: `to_neural_operator`."""
