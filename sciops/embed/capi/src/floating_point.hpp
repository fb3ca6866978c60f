/* The floating-point environment of the caller, put aside while a network runs. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <cfenv>

namespace sciops {

/* Networks overflow and underflow on purpose (exponentials, masks, padded lanes of vector registers). A host that traps
 * floating-point exceptions would be killed there; outputs are checked for finite values instead. */
class QuietFloatingPoint {
public:
    QuietFloatingPoint() noexcept { std::feholdexcept(&environment_); }
    ~QuietFloatingPoint() { std::fesetenv(&environment_); }
    QuietFloatingPoint(const QuietFloatingPoint &) = delete;
    QuietFloatingPoint &operator=(const QuietFloatingPoint &) = delete;

private:
    std::fenv_t environment_;
};

} // namespace sciops
