/* Grids as blocks of 2^d points, the layout of the multigrid graphs. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <array>

#include "network.hpp"

namespace sciops {

/* Point 2I + p of a grid is entry I of class p; classes in row-major order of parity, blocks = ceil(m / 2) per axis. */
class Blocks {
public:
    explicit Blocks(const Shape &space) : ndim_(int(space.size())) {
        for (int a = 0; a < 3; ++a) {
            const int axis = a - (3 - ndim_);
            if (axis < 0) continue;
            space_[a] = space[axis], step_[a] = 2, size_[a] = (space[axis] + 1) / 2;
            sizes_.push_back(size_[a]);
        }
    }

    const Shape &sizes() const { return sizes_; }
    int classes() const { return 1 << ndim_; }
    std::int64_t points() const { return sciops::points(sizes_) * classes(); }

    /* out (classes, *blocks) from x (*space); points beyond an odd end are zero. */
    template <class From, class To> void split(const From *x, To *out) const {
        visit([&](std::int64_t row, bool inside, std::int64_t first, std::int64_t parity, std::int64_t width) {
            for (std::int64_t k = 0; k < width; ++k)
                out[row + k] = inside && 2 * k + parity < space_[2] ? To(x[first + 2 * k + parity]) : To(0);
        });
    }

    /* The inverse of split. */
    template <class From, class To> void merge(const From *blocks, To *x) const {
        visit([&](std::int64_t row, bool inside, std::int64_t first, std::int64_t parity, std::int64_t width) {
            for (std::int64_t k = 0; inside && k < width && 2 * k + parity < space_[2]; ++k)
                x[first + 2 * k + parity] = To(blocks[row + k]);
        });
    }

private:
    /* Row by row: visitor(its start in blocks, does it exist, its start in space, parity, length). */
    template <class Visitor> void visit(Visitor &&visitor) const {
        std::int64_t row = 0;
        for (int k = 0; k < classes(); ++k) {
            const int p0 = ndim_ > 2 ? k >> 2 & 1 : 0, p1 = ndim_ > 1 ? k >> 1 & 1 : 0, p2 = k & 1;
            for (std::int64_t i = 0; i < size_[0]; ++i)
                for (std::int64_t j = 0; j < size_[1]; ++j, row += size_[2]) {
                    const std::int64_t y = step_[0] * i + p0, z = step_[1] * j + p1;
                    const bool inside = y < space_[0] && z < space_[1];
                    visitor(row, inside, (y * space_[1] + z) * space_[2], std::int64_t(p2), size_[2]);
                }
        }
    }

    int ndim_;
    Shape sizes_;
    std::array<std::int64_t, 3> space_{1, 1, 1}, step_{1, 1, 2}, size_{1, 1, 1};
};

} // namespace sciops
