/* The learned multigrid cycle: three graphs that serve every level. SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>
#include <cmath>
#include <limits>

#include "blocks.hpp"
#include "coarse.hpp"
#include "failure.hpp"
#include "preconditioner.hpp"

namespace sciops {

namespace {

Shape joined(std::initializer_list<std::int64_t> lead, const Shape &sizes) {
    Shape out(lead);
    out.insert(out.end(), sizes.begin(), sizes.end());
    return out;
}

struct Level {
    Blocks blocks;
    std::vector<Tensor> state; /* what `setup` found: weights, steps, entries */
};

/* z = B r with A divided by its largest diagonal entry; B is symmetric positive definite whatever the network says. */
template <class T> class Multigrid : public Preconditioner {
public:
    Multigrid(std::shared_ptr<const Model> owner, std::shared_ptr<const GridMatrix> grid)
        : Preconditioner(std::move(owner), std::move(grid)) {
        const int ndim = int(matrix().shape().size());
        int entries = 1;
        for (int axis = 0; axis < ndim; ++axis) entries *= 3;
        Shape space = matrix().shape();
        std::vector<T> stencil = stencil_of(entries);
        while (points(space) > model().manifest().coarsest && *std::max_element(space.begin(), space.end()) > 2)
            stencil = descend(space, stencil, entries);
        const std::vector<double> coarse(stencil.begin(), stencil.end());
        if (!std::all_of(coarse.begin(), coarse.end(), [](double value) { return std::isfinite(value); }))
            throw Failure(SCIOPS_NONFINITE, "The network '" + model().manifest().name +
                                                "' made a coarse matrix that is not finite; use another preconditioner here.");
        coarse_ = std::make_unique<CoarseSolver>(space, coarse, double(std::numeric_limits<T>::epsilon()));
    }

private:
    /* (3^d, *space), offsets in row-major order, centre 1 at most. */
    std::vector<T> stencil_of(int entries) const {
        const GridMatrix &A = matrix();
        const int ndim = int(A.shape().size()), centre = entries / 2;
        const std::int64_t size = A.size();
        const double unit = A.largest_diagonal();
        std::vector<T> stencil(std::size_t(entries) * size, T(0));
        for (std::int64_t i = 0; i < size; ++i) stencil[centre * size + i] = T(A.diagonal()[i] / unit);
        std::int64_t step = 1;
        int place = 1; // of the offset +e of this axis beside the centre
        for (int axis = ndim - 1; axis >= 0; --axis) {
            const double *c = A.coupling(axis);
            for (std::int64_t i = 0; i + step < size; ++i) {
                if (c[i] == 0.0) continue;
                const T entry = T(-c[i] / unit);
                stencil[(centre + place) * size + i] = entry;
                stencil[(centre - place) * size + i + step] = entry;
            }
            step *= A.shape()[axis], place *= 3;
        }
        return stencil;
    }

    /* Sets one level up; `space` and the result are those of the next. */
    std::vector<T> descend(Shape &space, const std::vector<T> &stencil, int entries) {
        Blocks blocks(space);
        const std::int64_t size = points(space), padded = blocks.points();
        std::vector<T> split(std::size_t(entries) * padded);
        for (int k = 0; k < entries; ++k) blocks.split(stencil.data() + k * size, split.data() + k * padded);
        const int states = model().manifest().states;
        std::vector<Tensor> found = model().network("setup").run(
            model().threads(), {view(split.data(), joined({1, entries, blocks.classes()}, blocks.sizes()))}, states + 1);
        const T *coarse = found[states].template values<T>(joined({1, entries}, blocks.sizes()), "a coarse matrix");
        std::vector<T> next(coarse, coarse + entries * points(blocks.sizes()));
        found.pop_back();
        space = blocks.sizes();
        levels_.push_back({std::move(blocks), std::move(found)});
        return next;
    }

    double scale(const std::vector<double> &r) const override {
        double largest = 0.0;
        for (const double value : r) largest = std::fmax(largest, std::fabs(value));
        if (largest == 0.0) return 0.0;
        int exponent;
        std::frexp(largest, &exponent); // a power of two, so that no digit changes
        return std::ldexp(1.0, std::min(exponent, 1023));
    }

    void answer(const std::vector<double> &r, double *z) const override {
        std::vector<T> x(r.begin(), r.end());
        cycle(0, x);
        for (std::int64_t i = 0; i < matrix().size(); ++i) z[i] = double(x[i]) / matrix().largest_diagonal();
    }

    /* r ↦ B r of this level and those below, in place. */
    void cycle(std::size_t depth, std::vector<T> &r) const {
        if (depth == levels_.size()) {
            std::vector<double> x(r.begin(), r.end());
            coarse_->solve(x);
            r.assign(x.begin(), x.end());
            return;
        }
        const Level &level = levels_[depth];
        const Shape &sizes = level.blocks.sizes();
        const Shape fine = joined({1, level.blocks.classes()}, sizes), coarse = joined({1}, sizes);
        std::vector<T> b(level.blocks.points());
        level.blocks.split(r.data(), b.data());
        std::vector<sciops_tensor> inputs{view(b.data(), fine)};
        for (const Tensor &one : level.state) inputs.push_back(one.raw());
        const std::vector<Tensor> down = model().network("down").run(model().threads(), inputs, 2);
        const T *right = down[1].template values<T>(coarse, "a coarse residual");
        std::vector<T> e(right, right + points(sizes));
        cycle(depth + 1, e);
        inputs.insert(inputs.begin(), down[0].raw());
        inputs.insert(inputs.begin() + 2, view(e.data(), coarse));
        const std::vector<Tensor> up = model().network("up").run(model().threads(), inputs, 1);
        level.blocks.merge(up[0].template values<T>(fine, "a correction"), r.data());
    }

    std::vector<Level> levels_;
    std::unique_ptr<const CoarseSolver> coarse_;
};

} // namespace

std::unique_ptr<const Preconditioner> make_multigrid(std::shared_ptr<const Model> model,
                                                     std::shared_ptr<const GridMatrix> matrix) {
    if (model->precision() == 64) return std::make_unique<Multigrid<double>>(std::move(model), std::move(matrix));
    return std::make_unique<Multigrid<float>>(std::move(model), std::move(matrix));
}

} // namespace sciops
