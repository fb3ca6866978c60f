/* What an artefact says about itself. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "network.hpp"

namespace sciops {

enum class Kind { operator_, multigrid, direction };

struct Channel {
    std::string name;
    std::optional<double> lower, upper; /* seen in training */
};

struct Manifest {
    std::string folder, text, name;
    Kind kind = Kind::operator_;
    int ndim = 0;
    std::vector<int> precisions;
    std::vector<Channel> inputs, outputs;
    bool dynamic = false;
    Shape native, multiple, minimum, maximum; /* empty native: unknown */
    bool linear = false, symmetric = false, positive = false;
    std::int64_t coarsest = 0; /* multigrid: points that are solved by factorisation */
    int states = 0;            /* multigrid: tensors that set-up keeps per level */
    std::string torch, march;

    /* Reads manifest.json and verifies every file's checksum; nothing else of the folder is opened before. */
    static Manifest read(const std::string &folder);

    std::string package(int precision) const;
    /* "" or the sentence why this grid is refused. */
    std::string refuses(const Shape &shape) const;
    /* Throws Failure unless compiled for this torch and this processor. */
    void require_runtime(const std::string &torch_here) const;
};

} // namespace sciops
