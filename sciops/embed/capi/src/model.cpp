/* SPDX-License-Identifier: Apache-2.0 */
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "failure.hpp"

namespace sciops {

namespace {

int chosen(const Manifest &manifest, int wanted) {
    const auto &offered = manifest.precisions;
    if (offered.empty())
        throw Failure(SCIOPS_FILE, "The artefact '" + manifest.name + "' has no package; export it again.");
    if (wanted == 0) return *std::min_element(offered.begin(), offered.end());
    if (std::find(offered.begin(), offered.end(), wanted) != offered.end()) return wanted;
    throw Failure(SCIOPS_VALUE, "A precision of " + std::to_string(wanted) + " bits was asked for, but the artefact '" +
                                    manifest.name + "' has no such package; ask for 0, the lowest that it has.");
}

} // namespace

Model::Model(const std::string &folder, int precision, int threads)
    : manifest_(Manifest::read(folder)), precision_(chosen(manifest_, precision)), threads_(threads) {
    manifest_.require_runtime(backend().runtime);
    for (const auto &entry : manifest_.programs())
        networks_.emplace(entry, std::make_unique<const Network>(manifest_.package(precision_), entry));
}

template <class T> void Model::solve_in(const Shape &shape, const double *input, double *output) const {
    const std::int64_t size = points(shape);
    const auto channels_in = std::int64_t(manifest_.inputs.size()),
               channels_out = std::int64_t(manifest_.outputs.size());
    Shape in{1, channels_in}, out{1, channels_out};
    in.insert(in.end(), shape.begin(), shape.end());
    out.insert(out.end(), shape.begin(), shape.end());
    const std::vector<T> given(input, input + channels_in * size);
    const auto found = network("solve").run(threads_, {view(given.data(), in)}, 1);
    const T *values = found[0].template values<T>(out, "fields");
    if (!std::all_of(values, values + channels_out * size, [](T value) { return std::isfinite(value); }))
        throw Failure(SCIOPS_NONFINITE, "The network '" + manifest_.name +
                                            "' answered with a value that is not finite; use the native solver here.");
    std::copy(values, values + channels_out * size, output);
}

sciops_range Model::range_of(std::int64_t size, const double *input) const {
    sciops_range worst{0.0, -1};
    for (std::size_t c = 0; c < manifest_.inputs.size(); ++c) {
        const Channel &channel = manifest_.inputs[c];
        if (!channel.lower || !channel.upper) continue;
        const auto [low, high] = std::minmax_element(input + c * size, input + (c + 1) * size);
        const double width = *channel.upper - *channel.lower;
        const double unit =
            width > 0.0 ? width : std::fmax(std::fabs(*channel.upper), std::numeric_limits<double>::min());
        const double outside = std::fmax(*channel.lower - *low, *high - *channel.upper) / unit;
        if (outside > worst.outside) worst = {outside, int(c)};
    }
    return worst;
}

void Model::solve(const Shape &shape, const double *input, double *output, sciops_range *range) const {
    if (manifest_.kind != Kind::operator_)
        throw Failure(SCIOPS_KIND, "The artefact '" + manifest_.name +
                                       "' is a preconditioner and not an operator; use sciops_setup and sciops_apply.");
    const std::string refusal = manifest_.refuses(shape);
    if (!refusal.empty()) throw Failure(SCIOPS_SHAPE, refusal);
    const std::int64_t size = points(shape), count = size * std::int64_t(manifest_.inputs.size());
    const double *bad = std::find_if_not(input, input + count, [](double value) { return std::isfinite(value); });
    if (bad != input + count)
        throw Failure(SCIOPS_VALUE, "The input channel '" + manifest_.inputs[std::size_t((bad - input) / size)].name +
                                        "' has a value that is not finite; mend it.");
    if (range != nullptr) *range = range_of(size, input);
    if (precision_ == 64)
        solve_in<double>(shape, input, output);
    else
        solve_in<float>(shape, input, output);
}

} // namespace sciops
