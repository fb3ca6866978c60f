/* SPDX-License-Identifier: Apache-2.0 */
#include "failure.hpp"

#include <cstdio>

namespace sciops {

namespace {
/* Plain memory: nothing to destroy when a thread ends or the library is closed. */
thread_local char sentence[2048] = "";
} // namespace

void set_last_error(const char *text) noexcept { std::snprintf(sentence, sizeof sentence, "%s", text); }

const char *last_error() noexcept { return sentence; }

} // namespace sciops
