/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "preconditioner.hpp"
#include "sciops.h"

namespace sciops {

/* The settings that stand for the zeros of `options` (or for a null pointer). */
sciops_krylov completed(const sciops_krylov *options, const Preconditioner &preconditioner);

/* A x = b by flexible conjugate gradients; returns SCIOPS_OK or SCIOPS_NOT_CONVERGED, throws Failure. */
sciops_status flexible_cg(const Preconditioner &preconditioner, const double *b, double *x,
                          const sciops_krylov &options, sciops_report &report);

} // namespace sciops
