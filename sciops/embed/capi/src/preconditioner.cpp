/* SPDX-License-Identifier: Apache-2.0 */
#include "preconditioner.hpp"

#include <cmath>

#include "failure.hpp"

namespace sciops {

void Preconditioner::apply(const double *r, double *z) const {
    const GridMatrix &A = matrix();
    std::vector<double> scaled(A.size());
    for (std::int64_t i = 0; i < A.size(); ++i) {
        if (!std::isfinite(r[i]))
            throw Failure(SCIOPS_VALUE,
                          "The residual r has a value that is not finite; check the iteration that made it.");
        scaled[i] = A.unknown(i) ? r[i] : 0.0;
    }
    const double size = scale(scaled);
    if (!(size > 0.0)) {
        std::fill(z, z + A.size(), 0.0);
        return;
    }
    for (double &value : scaled) value /= size;
    answer(scaled, z);
    bool finite = true;
    for (std::int64_t i = 0; i < A.size(); ++i) {
        z[i] = A.unknown(i) ? z[i] * size : 0.0;
        finite = finite && std::isfinite(z[i]);
    }
    if (!finite)
        throw Failure(SCIOPS_NONFINITE,
                      "The network '" + model().manifest().name +
                          "' answered with a value that is not finite; use another preconditioner here.");
}

} // namespace sciops
