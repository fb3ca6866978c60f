/* The symmetric matrix of sciops_setup on a grid. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <vector>

#include "network.hpp"

namespace sciops {

/* (A x)_i = d_i x_i - sum over axes of c_i x_{i+e} + c_{i-e} x_{i-e}; x = 0 outside and where d = 0. */
class GridMatrix {
public:
    /* matrix (1 + ndim, *shape); refuses what is not finite, has the wrong sign or couples what is no unknown. */
    GridMatrix(const Shape &shape, const double *matrix);

    const Shape &shape() const { return shape_; }
    std::int64_t size() const { return size_; }
    double largest_diagonal() const { return largest_; }
    const double *diagonal() const { return entries_.data(); }
    /* Coupling of each cell with the next along the axis, 0 at the end of the box. */
    const double *coupling(int axis) const { return entries_.data() + (1 + axis) * size_; }
    bool unknown(std::int64_t cell) const { return entries_[cell] > 0.0; }

    void multiply(const double *x, double *y) const;
    /* Number of the connected set of unknowns that each cell is in, -1 for none; returns how many there are. */
    std::int64_t components(std::vector<std::int64_t> &labels) const;

private:
    std::int64_t stride(int axis) const;

    Shape shape_;
    std::int64_t size_;
    double largest_ = 0.0;
    std::vector<double> entries_;
};

} // namespace sciops
