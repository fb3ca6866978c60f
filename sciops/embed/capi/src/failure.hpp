/* One sentence per failure, kept per thread; no exception leaves the library. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "sciops.h"

namespace sciops {

class Failure : public std::exception {
public:
    Failure(sciops_status status, std::string sentence) : status_(status), sentence_(std::move(sentence)) {}
    const char *what() const noexcept override { return sentence_.c_str(); }
    sciops_status status() const noexcept { return status_; }

private:
    sciops_status status_;
    std::string sentence_;
};

void set_last_error(const char *sentence) noexcept;
const char *last_error() noexcept;

/* Runs `body` and turns what it throws into a status and the thread's last sentence. */
template <class Body> sciops_status attempt(Body &&body) noexcept {
    try {
        return body();
    } catch (const Failure &failure) {
        set_last_error(failure.what());
        return failure.status();
    } catch (const std::bad_alloc &) {
        set_last_error("There is not enough memory for this grid; use a smaller one or a machine with more memory.");
        return SCIOPS_MEMORY;
    } catch (const std::exception &error) {
        set_last_error(error.what());
        return SCIOPS_BACKEND;
    } catch (...) {
        set_last_error("Something that is no C++ exception was thrown inside the library; please report it.");
        return SCIOPS_BACKEND;
    }
}

} // namespace sciops
