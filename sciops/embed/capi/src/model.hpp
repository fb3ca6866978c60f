/* An artefact with its networks loaded. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <map>
#include <memory>

#include "manifest.hpp"
#include "sciops.h"

namespace sciops {

class Model {
public:
    Model(const std::string &folder, int precision, int threads);

    const Manifest &manifest() const { return manifest_; }
    int precision() const { return precision_; }
    int threads() const { return threads_; }
    const Network &network(const std::string &entry) const { return *networks_.at(entry); }

    /* output (channels_out, *shape) from input (channels_in, *shape); throws Failure. May be called by many threads. */
    void solve(const Shape &shape, const double *input, double *output, sciops_range *range) const;

private:
    template <class T> void solve_in(const Shape &shape, const double *input, double *output) const;
    sciops_range range_of(std::int64_t size, const double *input) const;

    Manifest manifest_;
    int precision_, threads_;
    std::map<std::string, std::unique_ptr<const Network>> networks_;
};

} // namespace sciops
