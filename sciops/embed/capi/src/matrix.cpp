/* SPDX-License-Identifier: Apache-2.0 */
#include "matrix.hpp"

#include <cmath>
#include <string>

#include "failure.hpp"

namespace sciops {

namespace {

/* Couplings of the wrong sign up to this share of the largest diagonal entry count as rounding of zero. */
constexpr double rounding = 1e-9;

std::string place(const Shape &shape, std::int64_t cell) {
    std::string out;
    for (int axis = int(shape.size()) - 1; axis >= 0; --axis) {
        out = std::to_string(cell % shape[axis]) + (out.empty() ? "" : ", " + out);
        cell /= shape[axis];
    }
    return "(" + out + ")";
}

} // namespace

GridMatrix::GridMatrix(const Shape &shape, const double *matrix)
    : shape_(shape), size_(points(shape)), entries_(matrix, matrix + (1 + shape.size()) * points(shape)) {
    const int ndim = int(shape.size());
    for (std::int64_t i = 0; i < size_; ++i) {
        const double d = entries_[i];
        if (!std::isfinite(d))
            throw Failure(SCIOPS_VALUE,
                          "The diagonal of the matrix is not finite at cell " + place(shape, i) + "; mend it.");
        if (d < 0.0)
            throw Failure(SCIOPS_VALUE, "The diagonal of the matrix is negative at cell " + place(shape, i) +
                                            ", but it must be positive; give -A and -b.");
        largest_ = std::fmax(largest_, d);
    }
    if (largest_ == 0.0)
        throw Failure(SCIOPS_VALUE,
                      "The diagonal of the matrix is zero in every cell, so there is no unknown; fill it.");
    for (int axis = 0; axis < ndim; ++axis) {
        double *c = entries_.data() + (1 + axis) * size_;
        const std::int64_t step = stride(axis), length = shape[axis];
        for (std::int64_t i = 0; i < size_; ++i) {
            if (!std::isfinite(c[i]))
                throw Failure(SCIOPS_VALUE, "The coupling along axis " + std::to_string(axis) +
                                                " is not finite at cell " + place(shape, i) + "; mend it.");
            if (c[i] < -rounding * largest_)
                throw Failure(SCIOPS_VALUE, "The coupling along axis " + std::to_string(axis) +
                                                " is negative at cell " + place(shape, i) +
                                                ", but c = -A[i, i + e] must not be; check its sign.");
            if (c[i] <= 0.0 || (i / step) % length == length - 1) {
                c[i] = 0.0; // beyond the box there is nothing to couple with
                continue;
            }
            if (!unknown(i) || !unknown(i + step))
                throw Failure(SCIOPS_VALUE, "The coupling along axis " + std::to_string(axis) + " at cell " +
                                                place(shape, i) +
                                                " joins a cell whose diagonal is zero; give zeros around such cells.");
        }
    }
}

std::int64_t GridMatrix::stride(int axis) const {
    std::int64_t step = 1;
    for (std::size_t a = axis + 1; a < shape_.size(); ++a) step *= shape_[a];
    return step;
}

void GridMatrix::multiply(const double *x, double *y) const {
    const double *d = diagonal();
    for (std::int64_t i = 0; i < size_; ++i) y[i] = d[i] * x[i];
    for (int axis = 0; axis < int(shape_.size()); ++axis) {
        const double *c = coupling(axis);
        const std::int64_t step = stride(axis);
        // Couplings at the end of the box are zero, so that rows may run into one another.
        const std::int64_t count = size_ - step;
        for (std::int64_t i = 0; i < count; ++i) y[i] -= c[i] * x[i + step];
        for (std::int64_t i = 0; i < count; ++i) y[i + step] -= c[i] * x[i];
    }
}

std::int64_t GridMatrix::components(std::vector<std::int64_t> &labels) const {
    labels.assign(size_, -1);
    std::vector<std::int64_t> open;
    std::int64_t count = 0;
    for (std::int64_t start = 0; start < size_; ++start) {
        if (!unknown(start) || labels[start] >= 0) continue;
        labels[start] = count;
        open.assign(1, start);
        while (!open.empty()) {
            const std::int64_t i = open.back();
            open.pop_back();
            for (int axis = 0; axis < int(shape_.size()); ++axis) {
                const double *c = coupling(axis);
                const std::int64_t step = stride(axis);
                if (c[i] > 0.0 && labels[i + step] < 0) labels[i + step] = count, open.push_back(i + step);
                if (i >= step && c[i - step] > 0.0 && labels[i - step] < 0)
                    labels[i - step] = count, open.push_back(i - step);
            }
        }
        ++count;
    }
    return count;
}

} // namespace sciops
