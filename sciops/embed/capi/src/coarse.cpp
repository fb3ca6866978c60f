/* SPDX-License-Identifier: Apache-2.0 */
#include "coarse.hpp"

#include <cmath>

namespace sciops {

namespace {

/* Lower factor in place; false if the matrix is not positive definite in rounding. */
bool factorise(std::vector<double> &a, std::size_t n) {
    for (std::size_t j = 0; j < n; ++j) {
        double *row = &a[j * n];
        for (std::size_t i = 0; i < j; ++i) {
            const double *other = &a[i * n];
            double sum = row[i];
            for (std::size_t k = 0; k < i; ++k) sum -= row[k] * other[k];
            row[i] = sum / other[i];
        }
        double sum = row[j];
        for (std::size_t k = 0; k < j; ++k) sum -= row[k] * row[k];
        if (!(sum > 0.0)) return false;
        row[j] = std::sqrt(sum);
    }
    return true;
}

} // namespace

CoarseSolver::CoarseSolver(const Shape &space, const std::vector<double> &stencil, double shift)
    : size_(std::size_t(points(space))), root_(size_), factor_(size_ * size_, 0.0) {
    const int ndim = int(space.size());
    const std::size_t entries = stencil.size() / size_, centre = entries / 2;
    for (std::size_t i = 0; i < size_; ++i) {
        const double d = stencil[centre * size_ + i];
        root_[i] = d > 0.0 ? 1.0 / std::sqrt(d) : 0.0;
    }
    for (std::size_t entry = 0; entry < entries; ++entry) {
        for (std::size_t i = 0; i < size_; ++i) {
            std::int64_t target = 0, step = 1, rest = std::int64_t(i), number = std::int64_t(entry);
            bool inside = true;
            for (int axis = ndim - 1; axis >= 0; --axis) {
                const std::int64_t at = rest % space[axis] + number % 3 - 1;
                inside = inside && at >= 0 && at < space[axis];
                target += at * step, step *= space[axis], rest /= space[axis], number /= 3;
            }
            if (!inside) continue;
            const std::size_t j = std::size_t(target);
            const double half = 0.5 * stencil[entry * size_ + i] * root_[i] * root_[j];
            factor_[i * size_ + j] += half;
            factor_[j * size_ + i] += half;
        }
    }
    // A null space stays large but positive.
    for (std::size_t i = 0; i < size_; ++i) factor_[i * size_ + i] += (root_[i] > 0.0 ? 0.0 : 1.0) + shift;
    if (factorise(factor_, size_)) return;
    // Not definite in rounding: keep the unit diagonal, the outer iteration still converges.
    factor_.assign(size_ * size_, 0.0);
    for (std::size_t i = 0; i < size_; ++i) factor_[i * size_ + i] = 1.0;
}

void CoarseSolver::solve(std::vector<double> &x) const {
    for (std::size_t i = 0; i < size_; ++i) {
        double sum = x[i] * root_[i];
        for (std::size_t k = 0; k < i; ++k) sum -= factor_[i * size_ + k] * x[k];
        x[i] = sum / factor_[i * size_ + i];
    }
    for (std::size_t i = size_; i-- > 0;) {
        x[i] /= factor_[i * size_ + i];
        for (std::size_t k = 0; k < i; ++k) x[k] -= factor_[i * size_ + k] * x[i];
    }
    for (std::size_t i = 0; i < size_; ++i) x[i] *= root_[i];
}

} // namespace sciops
