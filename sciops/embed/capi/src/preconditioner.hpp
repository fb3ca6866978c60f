/* z = f(r) for one matrix. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <memory>

#include "matrix.hpp"
#include "model.hpp"

namespace sciops {

class Preconditioner {
public:
    Preconditioner(std::shared_ptr<const Model> model, std::shared_ptr<const GridMatrix> matrix)
        : model_(std::move(model)), matrix_(std::move(matrix)) {}
    virtual ~Preconditioner() = default;

    /* z (*shape) from r (*shape), zero where there is no unknown; throws Failure. May be called by many threads. */
    void apply(const double *r, double *z) const;

    const Model &model() const { return *model_; }
    const GridMatrix &matrix() const { return *matrix_; }

private:
    /* z from r; r is zero where there is no unknown and of size about one. */
    virtual void answer(const std::vector<double> &r, double *z) const = 0;
    /* The number that r is divided by beforehand; z is multiplied by it. r is zero where there is no unknown. */
    virtual double scale(const std::vector<double> &r) const = 0;

    std::shared_ptr<const Model> model_;
    std::shared_ptr<const GridMatrix> matrix_;
};

std::unique_ptr<const Preconditioner> make_multigrid(std::shared_ptr<const Model> model,
                                                     std::shared_ptr<const GridMatrix> matrix);
std::unique_ptr<const Preconditioner> make_direction(std::shared_ptr<const Model> model,
                                                     std::shared_ptr<const GridMatrix> matrix);

} // namespace sciops
