/* The coarsest level. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <vector>

#include "network.hpp"

namespace sciops {

/* Cholesky factorisation, in double precision, of D^-1/2 A D^-1/2 + shift of a small stencil system. */
class CoarseSolver {
public:
    /* stencil (3^d, *space), offsets in row-major order. `shift`: added to the unit diagonal. */
    CoarseSolver(const Shape &space, const std::vector<double> &stencil, double shift);
    /* x = A^-1 b in place. */
    void solve(std::vector<double> &x) const;

private:
    std::size_t size_;
    std::vector<double> root_;   /* D^-1/2, 0 where there is no unknown */
    std::vector<double> factor_; /* lower, by rows */
};

} // namespace sciops
