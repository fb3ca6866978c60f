/* SPDX-License-Identifier: Apache-2.0 */
#include "manifest.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>

#include "failure.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace sciops {

namespace {

constexpr int schema = 1;
constexpr std::size_t largest_manifest = 16 << 20;
constexpr std::int64_t largest_factor = 4000;

std::string contents(const std::string &path) {
    std::unique_ptr<std::FILE, int (*)(std::FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!file)
        throw Failure(SCIOPS_FILE, "There is no artefact here: " + path + " cannot be opened (" + std::strerror(errno) +
                                       "); give the folder NAME.sciops that `sciops export` wrote.");
    std::string text;
    char buffer[65536];
    for (std::size_t count; (count = std::fread(buffer, 1, sizeof buffer, file.get())) > 0;) {
        text.append(buffer, count);
        if (text.size() > largest_manifest)
            throw Failure(SCIOPS_FILE, "The file " + path + " is too long for a manifest.");
    }
    return text;
}

const Json &required(const Json &json, const char *name) {
    const Json &value = json[name];
    if (value.is_null()) throw std::runtime_error(std::string("there is no '") + name + "'");
    return value;
}

std::optional<double> maybe(const Json &json) {
    return json.is_null() ? std::nullopt : std::optional<double>(json.number());
}

/* Whole numbers per axis; null or an entry null means `otherwise`, one number means every axis. */
Shape per_axis(const Json &json, int ndim, std::int64_t otherwise) {
    Shape out(ndim, otherwise);
    if (json.type() == Json::Type::number) {
        out.assign(ndim, std::int64_t(json.number()));
    } else if (!json.is_null()) {
        if (int(json.array().size()) != ndim) throw std::runtime_error("expected one number per axis in 'shape'");
        for (int axis = 0; axis < ndim; ++axis)
            if (!json.array()[axis].is_null()) out[axis] = std::int64_t(json.array()[axis].number());
    }
    return out;
}

std::vector<Channel> channels(const Json &json) {
    std::vector<Channel> out;
    if (json.is_null()) return out;
    for (const Json &one : json.array())
        out.push_back({required(one, "name").string(), maybe(one["lower"]), maybe(one["upper"])});
    return out;
}

std::vector<std::string> names(const Json &json) {
    std::vector<std::string> out;
    for (const Json &one : json.array()) out.push_back(one.string());
    return out;
}

/* Where an offset stands among the 3^d in row-major order. */
int place_of(const Json &offset, int ndim) {
    if (int(offset.array().size()) != ndim) throw std::runtime_error("an offset has the wrong number of axes");
    int place = 0;
    for (const Json &one : offset.array()) {
        const double o = one.number();
        if (o != -1.0 && o != 0.0 && o != 1.0) throw std::runtime_error("an offset is not -1, 0 or 1");
        place = 3 * place + int(o) + 1;
    }
    return place;
}

void read_levels(const Json &multigrid, Manifest &m) {
    m.coarsest = std::int64_t(required(multigrid, "coarsest").number());
    m.shift = required(multigrid, "shift").number();
    for (const Json &one : required(multigrid, "levels").array()) {
        LevelPrograms level{
            required(one, "setup").string(), required(one, "down").string(), required(one, "up").string(), {}};
        for (const Json &offset : required(one, "offsets").array()) level.places.push_back(place_of(offset, m.ndim));
        m.levels.push_back(std::move(level));
    }
    if (m.levels.empty()) throw std::runtime_error("'levels' of the multigrid is empty");
    if (m.coarsest < 1 || m.coarsest > largest_factor)
        throw std::runtime_error("'coarsest' of the multigrid is not between 1 and 4000");
}

bool flag(const Json &json) { return !json.is_null() && json.boolean(); }

Kind kind_of(const std::string &name) {
    if (name == "operator") return Kind::operator_;
    if (name == "multigrid") return Kind::multigrid;
    if (name == "direction") return Kind::direction;
    throw Failure(SCIOPS_VERSION, "This artefact is of the kind '" + name +
                                      "', but this library knows operator, multigrid and direction; use a newer one.");
}

/* "major.minor" of "2.13.0+cpu". */
std::string minor_version(const std::string &version) {
    const auto first = version.find('.');
    return first == std::string::npos ? version : version.substr(0, version.find_first_not_of("0123456789", first + 1));
}

bool plain_name(const std::string &name) {
    return !name.empty() && name[0] != '.' && name.find('/') == std::string::npos &&
           name.find('\0') == std::string::npos;
}

void verify(const std::string &folder, const Json &files) {
    for (const auto &[name, digest] : files.object()) {
        if (!plain_name(name))
            throw Failure(SCIOPS_FILE,
                          "The manifest lists the file '" + name + "' outside its folder; export it again.");
        if (sha256_of_file(folder + "/" + name) != digest.string())
            throw Failure(SCIOPS_CHECKSUM,
                          "The file " + folder + "/" + name +
                              " is not the one that was exported (its SHA-256 differs); copy it again.");
    }
}

Manifest interpret(const std::string &folder, std::string text) {
    const Json json = Json::parse(text);
    if (required(json, "format").string() != "sciops") throw std::runtime_error("its 'format' is not sciops");
    if (required(json, "schema").number() != schema) {
        char number[32];
        std::snprintf(number, sizeof number, "%g", json["schema"].number());
        throw Failure(SCIOPS_VERSION, "This artefact has schema " + std::string(number) +
                                          " and this library reads schema 1; export it again or use another library.");
    }
    Manifest m;
    m.folder = folder;
    m.name = required(json, "name").string();
    m.kind = kind_of(required(json, "kind").string());
    m.ndim = int(required(json, "ndim").number());
    if (m.ndim < 1 || m.ndim > 3) throw std::runtime_error("'ndim' is not 1, 2 or 3");
    for (const Json &one : required(json, "precisions").array()) m.precisions.push_back(int(one.number()));
    m.inputs = channels(json["inputs"]);
    m.outputs = channels(json["outputs"]);
    const Json &shape = required(json, "shape");
    m.dynamic = flag(shape["dynamic"]);
    m.multiple = per_axis(shape["multiple"], m.ndim, 1);
    m.remainder = per_axis(shape["remainder"], m.ndim, 0);
    m.minimum = per_axis(shape["minimum"], m.ndim, 1);
    m.maximum = per_axis(shape["maximum"], m.ndim, std::numeric_limits<std::int64_t>::max());
    const Json &grid = json["grid"];
    if (!grid.is_null() && !grid["shape"].is_null()) m.native = per_axis(grid["shape"], m.ndim, 1);
    if (!m.dynamic && m.native.empty()) throw std::runtime_error("a fixed grid without 'grid.shape'");
    m.linear = flag(json["linear"]);
    m.symmetric = flag(json["symmetric"]);
    m.positive = flag(json["positive"]);
    for (const auto &[name, entry] : required(json, "entries").object())
        m.entries[name] = {names(required(entry, "inputs")), names(required(entry, "outputs"))};
    if (m.kind == Kind::multigrid) read_levels(required(json, "multigrid"), m);
    for (const std::string &name : m.programs())
        if (m.entries.find(name) == m.entries.end()) throw std::runtime_error("there is no entry '" + name + "'");
    if (m.kind == Kind::operator_ && (m.inputs.empty() || m.outputs.empty()))
        throw std::runtime_error("an operator without inputs or outputs");
    m.torch = required(required(json, "versions"), "torch").string();
    if (!json["isa"].is_null()) m.isa = json["isa"].string();
    const auto &files = required(json, "files").object();
    for (const int precision : m.precisions)
        if (files.find("model.float" + std::to_string(precision) + ".pt2") == files.end())
            throw std::runtime_error("'files' does not list the package of " + std::to_string(precision) + " bits");
    verify(folder, json["files"]);
    m.text = std::move(text);
    return m;
}

} // namespace

Manifest Manifest::read(const std::string &folder) {
    const std::string path = folder + "/manifest.json";
    try {
        return interpret(folder, contents(path));
    } catch (const std::runtime_error &error) {
        throw Failure(SCIOPS_FILE,
                      "The file " + path + " is no manifest of an artefact (" + error.what() + "); export it again.");
    }
}

std::vector<std::string> Manifest::programs() const {
    if (kind == Kind::operator_) return {"solve"};
    if (kind == Kind::direction) return {"apply"};
    std::vector<std::string> out;
    for (const auto &level : levels)
        for (const std::string &name : {level.setup, level.down, level.up})
            if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
    return out;
}

std::string Manifest::package(int precision) const {
    return folder + "/model.float" + std::to_string(precision) + ".pt2";
}

std::string Manifest::refuses(const Shape &shape) const {
    if (int(shape.size()) != ndim)
        return "The artefact '" + name + "' was made for grids of " + std::to_string(ndim) + " axes and was given " +
               std::to_string(shape.size()) + "; export one for this dimension.";
    if (!dynamic && shape != native)
        return "The artefact '" + name + "' serves the grid " + text_of(native) + " alone and was given " +
               text_of(shape) + "; export one for this grid or one with a dynamic shape.";
    for (int axis = 0; dynamic && axis < ndim; ++axis) {
        const auto size = shape[axis], step = std::max<std::int64_t>(multiple[axis], 1), rest = remainder[axis] % step;
        if (size >= minimum[axis] && size <= maximum[axis] && size % step == rest) continue;
        const bool bounded = maximum[axis] != std::numeric_limits<std::int64_t>::max();
        return "Axis " + std::to_string(axis) + " of the grid " + text_of(shape) + " has " + std::to_string(size) +
               " points, but the artefact '" + name + "' takes " +
               (step == 1 ? "any number" : std::to_string(step) + " k + " + std::to_string(rest)) + " from " +
               std::to_string(minimum[axis]) + (bounded ? " to " + std::to_string(maximum[axis]) : " on") +
               "; pad the grid or export for it.";
    }
    return "";
}

void Manifest::require_runtime(const std::string &torch_here) const {
    if (minor_version(torch) != minor_version(torch_here))
        throw Failure(SCIOPS_VERSION, "The artefact '" + name + "' was compiled for torch " + torch +
                                          " and this library runs torch " + torch_here +
                                          "; run `sciops recompile` on it or build the library against that torch.");
#if defined(__x86_64__)
    const bool wide = isa.rfind("AVX512", 0) == 0, enough = wide || isa.rfind("AVX2", 0) == 0;
    __builtin_cpu_init();
    if ((enough && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) ||
        (wide && !__builtin_cpu_supports("avx512f")))
        throw Failure(SCIOPS_VERSION, "The artefact '" + name + "' was compiled for processors with " + isa +
                                          " and this one has no such instructions; run `sciops recompile` here.");
#endif
}

} // namespace sciops
