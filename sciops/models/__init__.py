"""Networks: plain torch modules, no training and no input or output.

Every model is called as `forward(x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]`: n cases,
c channels, the grid axes last, the output on the grid of the input.
"""
