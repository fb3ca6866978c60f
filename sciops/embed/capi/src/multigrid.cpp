/* The learned multigrid cycle: three graphs that serve every level. SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

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

/* One level: the graphs that serve it and what `setup` found, by name. */
template <class T> struct Level {
    const LevelPrograms *programs;
    Blocks blocks;
    std::vector<T> stencil; /* in blocks */
    Shape stencil_shape;
    std::map<std::string, Tensor> state;
};

using Named = std::map<std::string, sciops_tensor>;

/* z = B r with A divided by its largest diagonal entry; B is symmetric positive definite whatever the network says. */
template <class T> class Multigrid : public Preconditioner {
public:
    Multigrid(std::shared_ptr<const Model> owner, std::shared_ptr<const GridMatrix> grid)
        : Preconditioner(std::move(owner), std::move(grid)) {
        Shape space = matrix().shape();
        const Manifest &manifest = model().manifest();
        std::vector<T> stencil; // all 3^d entries of a coarse level; of the finest, those that its graphs work on
        while (points(space) > manifest.coarsest && *std::max_element(space.begin(), space.end()) > 2)
            stencil = descend(space, stencil);
        if (levels_.empty()) stencil = stencil_of(every_place());
        const std::vector<double> coarse(stencil.begin(), stencil.end());
        if (!std::all_of(coarse.begin(), coarse.end(), [](double value) { return std::isfinite(value); }))
            throw Failure(SCIOPS_NONFINITE,
                          "The network '" + model().manifest().name +
                              "' made a coarse matrix that is not finite; use another preconditioner here.");
        coarse_ =
            std::make_unique<CoarseSolver>(space, coarse, manifest.shift * double(std::numeric_limits<T>::epsilon()));
    }

private:
    int full() const {
        const std::size_t ndim = matrix().shape().size();
        return ndim == 1 ? 3 : ndim == 2 ? 9 : 27;
    }

    std::vector<int> every_place() const {
        std::vector<int> places(full());
        std::iota(places.begin(), places.end(), 0);
        return places;
    }

    /* (entries, *space), those of the 3^d offsets in row-major order that `places` names; the centre is 1 at most. */
    std::vector<T> stencil_of(const std::vector<int> &places) const {
        const GridMatrix &A = matrix();
        const int ndim = int(A.shape().size()), centre = full() / 2;
        const std::int64_t size = A.size();
        const double unit = A.largest_diagonal();
        std::vector<T> stencil(places.size() * size, T(0));
        const auto row = [&](int place) {
            const auto found = std::find(places.begin(), places.end(), place);
            if (found == places.end())
                throw Failure(SCIOPS_FILE, "The graphs of the artefact '" + model().manifest().name +
                                               "' leave out neighbours that every matrix has; export it again.");
            return stencil.data() + (found - places.begin()) * size;
        };
        T *diagonal = row(centre);
        for (std::int64_t i = 0; i < size; ++i) diagonal[i] = T(A.diagonal()[i] / unit);
        std::int64_t step = 1;
        int place = 1; // of the offset +e of this axis beside the centre
        for (int axis = ndim - 1; axis >= 0; --axis) {
            const double *c = A.coupling(axis);
            T *next = row(centre + place), *previous = row(centre - place);
            for (std::int64_t i = 0; i + step < size; ++i) {
                if (c[i] == 0.0) continue; // no negative zeros
                next[i] = previous[i + step] = T(-c[i] / unit);
            }
            step *= A.shape()[axis], place *= 3;
        }
        return stencil;
    }

    /* Sets one level up; `space` and the result are those of the next. */
    std::vector<T> descend(Shape &space, const std::vector<T> &coarse_stencil) {
        const auto &programs = model().manifest().levels;
        const LevelPrograms &mine = programs[std::min(levels_.size(), programs.size() - 1)];
        const bool finest = levels_.empty();
        const std::vector<T> own = finest ? stencil_of(mine.places) : std::vector<T>();
        Level<T> level{&mine, Blocks(space), {}, {}, {}};
        const Blocks &blocks = level.blocks;
        const auto entries = std::int64_t(mine.places.size()), size = points(space), padded = blocks.points();
        level.stencil.resize(std::size_t(entries * padded));
        level.stencil_shape = joined({1, entries, blocks.classes()}, blocks.sizes());
        for (std::int64_t k = 0; k < entries; ++k)
            blocks.split(finest ? own.data() + k * size : coarse_stencil.data() + mine.places[k] * size,
                         level.stencil.data() + k * padded);
        level.state = call(mine.setup, {{"stencil", view(level.stencil.data(), level.stencil_shape)}});
        const Shape next_shape = joined({1, full()}, blocks.sizes());
        const T *coarse = tensor(level.state, "coarse").template values<T>(next_shape, "a coarse matrix");
        std::vector<T> next(coarse, coarse + points(next_shape));
        level.state.erase("coarse");
        space = blocks.sizes();
        levels_.push_back(std::move(level));
        return next;
    }

    /* The outputs of a graph by name; inputs are picked by name. */
    std::map<std::string, Tensor> call(const std::string &program, const Named &given) const {
        const Entry &entry = model().manifest().entries.at(program);
        std::vector<sciops_tensor> inputs;
        for (const std::string &name : entry.inputs) {
            const auto found = given.find(name);
            if (found == given.end())
                throw Failure(SCIOPS_FILE, "The graph '" + program + "' wants '" + name +
                                               "', which this library does not know; use a newer one.");
            inputs.push_back(found->second);
        }
        std::vector<Tensor> answers =
            model().network(program).run(model().threads(), inputs, int(entry.outputs.size()));
        std::map<std::string, Tensor> out;
        for (std::size_t i = 0; i < answers.size(); ++i) out[entry.outputs[i]] = std::move(answers[i]);
        return out;
    }

    const Tensor &tensor(const std::map<std::string, Tensor> &found, const char *name) const {
        const auto at = found.find(name);
        if (at == found.end())
            throw Failure(SCIOPS_FILE, "A graph of the artefact '" + model().manifest().name + "' gives no '" + name +
                                           "'; export it again.");
        return at->second;
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
        const Level<T> &level = levels_[depth];
        const Shape &sizes = level.blocks.sizes();
        const Shape fine = joined({1, level.blocks.classes()}, sizes), coarse = joined({1}, sizes);
        std::vector<T> b(level.blocks.points());
        level.blocks.split(r.data(), b.data());
        Named given{{"b", view(b.data(), fine)}, {"stencil", view(level.stencil.data(), level.stencil_shape)}};
        for (const auto &[name, found] : level.state) given[name] = found.raw();
        const auto down = call(level.programs->down, given);
        const T *right = tensor(down, "coarse").template values<T>(coarse, "a coarse residual");
        std::vector<T> e(right, right + points(sizes));
        cycle(depth + 1, e);
        given["x"] = tensor(down, "x").raw();
        given["e"] = view(e.data(), coarse);
        const auto up = call(level.programs->up, given);
        level.blocks.merge(tensor(up, "x").template values<T>(fine, "a correction"), r.data());
    }

    std::vector<Level<T>> levels_;
    std::unique_ptr<const CoarseSolver> coarse_;
};

} // namespace

std::unique_ptr<const Preconditioner> make_multigrid(std::shared_ptr<const Model> model,
                                                     std::shared_ptr<const GridMatrix> matrix) {
    if (model->precision() == 64) return std::make_unique<Multigrid<double>>(std::move(model), std::move(matrix));
    return std::make_unique<Multigrid<float>>(std::move(model), std::move(matrix));
}

} // namespace sciops
