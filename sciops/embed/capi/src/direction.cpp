/* Nonlinear networks that propose a direction. SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>
#include <cmath>

#include "preconditioner.hpp"

namespace sciops {

namespace {

/* z = s f(r / s, mask), s the root mean square of r over the unknowns: the network sees one size of residuals. */
template <class T> class Direction : public Preconditioner {
public:
    Direction(std::shared_ptr<const Model> model, std::shared_ptr<const GridMatrix> grid)
        : Preconditioner(std::move(model), std::move(grid)), shape_{1, 1}, mask_(matrix().size()) {
        shape_.insert(shape_.end(), matrix().shape().begin(), matrix().shape().end());
        for (std::int64_t i = 0; i < matrix().size(); ++i) mask_[i] = matrix().unknown(i) ? T(1) : T(0);
        unknowns_ = double(std::count(mask_.begin(), mask_.end(), T(1)));
    }

private:
    double scale(const std::vector<double> &r) const override {
        // By the largest entry first: squares neither overflow nor vanish.
        double largest = 0.0, sum = 0.0;
        for (const double value : r) largest = std::fmax(largest, std::fabs(value));
        if (largest == 0.0) return 0.0;
        for (const double value : r) sum += (value / largest) * (value / largest);
        return largest * std::sqrt(sum / unknowns_);
    }

    void answer(const std::vector<double> &r, double *z) const override {
        const std::vector<T> given(r.begin(), r.end());
        const auto found = model().network("apply").run(
            model().threads(), {view(given.data(), shape_), view(mask_.data(), shape_)}, 1);
        const T *values = found[0].template values<T>(shape_, "a direction");
        std::copy(values, values + matrix().size(), z);
    }

    Shape shape_;
    std::vector<T> mask_;
    double unknowns_;
};

} // namespace

std::unique_ptr<const Preconditioner> make_direction(std::shared_ptr<const Model> model,
                                                     std::shared_ptr<const GridMatrix> matrix) {
    if (model->precision() == 64) return std::make_unique<Direction<double>>(std::move(model), std::move(matrix));
    return std::make_unique<Direction<float>>(std::move(model), std::move(matrix));
}

} // namespace sciops
