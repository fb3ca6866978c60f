/* What an artefact says about itself. SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <map>
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

/* A graph of the package: the tensors that it takes and gives, in order. */
struct Entry {
    std::vector<std::string> inputs, outputs;
};

/* The graphs of one multigrid level, and which of the 3^d stencil entries (in row-major order) they work on. */
struct LevelPrograms {
    std::string setup, down, up;
    std::vector<int> places;
};

struct Manifest {
    std::string folder, text, name;
    Kind kind = Kind::operator_;
    int ndim = 0;
    std::vector<int> precisions;
    std::vector<Channel> inputs, outputs;
    bool dynamic = false;
    Shape native, multiple, remainder, minimum, maximum; /* empty native: unknown */
    bool linear = false, symmetric = false, positive = false;
    std::map<std::string, Entry> entries;
    std::int64_t coarsest = 0;         /* multigrid: points that are solved by factorisation */
    double shift = 0.0;                /* multigrid: added to that matrix, in units of rounding beside its diagonal */
    std::vector<LevelPrograms> levels; /* multigrid: finest first; the last serves all that follow */
    std::string torch, isa;

    /* Reads manifest.json and verifies every file's checksum; nothing else of the folder is opened before. */
    static Manifest read(const std::string &folder);

    /* The entries that the library runs. */
    std::vector<std::string> programs() const;
    std::string package(int precision) const;
    /* "" or the sentence why this grid is refused. */
    std::string refuses(const Shape &shape) const;
    /* Throws Failure unless compiled for this torch and this processor. */
    void require_runtime(const std::string &torch_here) const;
};

} // namespace sciops
