/* Nonlinear networks that propose a direction. SPDX-License-Identifier: Apache-2.0 */
#include <algorithm>
#include <cmath>

#include "preconditioner.hpp"

namespace sciops {

namespace {

/* z = s f(r / s, mask), s = max |r|, so that small residuals do not vanish in single precision. */
template <class T> class Direction : public Preconditioner {
public:
    Direction(std::shared_ptr<const Model> model, std::shared_ptr<const GridMatrix> grid)
        : Preconditioner(std::move(model), std::move(grid)), shape_{1, 1}, mask_(matrix().size()) {
        shape_.insert(shape_.end(), matrix().shape().begin(), matrix().shape().end());
        for (std::int64_t i = 0; i < matrix().size(); ++i) mask_[i] = matrix().unknown(i) ? T(1) : T(0);
    }

private:
    double scale(const std::vector<double> &r) const override {
        double largest = 0.0;
        for (const double value : r) largest = std::fmax(largest, std::fabs(value));
        return largest;
    }

    void answer(const std::vector<double> &r, double *z) const override {
        const std::vector<T> given(r.begin(), r.end());
        const auto found = model().network("apply").run(model().threads(),
                                                        {view(given.data(), shape_), view(mask_.data(), shape_)}, 1);
        const T *values = found[0].template values<T>(shape_, "a direction");
        std::copy(values, values + matrix().size(), z);
    }

    Shape shape_;
    std::vector<T> mask_;
};

} // namespace

std::unique_ptr<const Preconditioner> make_direction(std::shared_ptr<const Model> model,
                                                     std::shared_ptr<const GridMatrix> matrix) {
    if (model->precision() == 64) return std::make_unique<Direction<double>>(std::move(model), std::move(matrix));
    return std::make_unique<Direction<float>>(std::move(model), std::move(matrix));
}

} // namespace sciops
