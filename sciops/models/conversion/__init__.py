"""Any network on a grid becomes a neural operator: `to_neural_operator`."""

from sciops.models.conversion.layout import ConversionError
from sciops.models.conversion.operator import NeuralOperatorModule, to_neural_operator

__all__ = ["ConversionError", "NeuralOperatorModule", "to_neural_operator"]
