// Graphs by hand behind backend.h: what libsciops does with them is tested without torch.
// The text of a package says how its graphs behave; see `behaviour`.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "backend.h"

namespace {

struct Network {
    std::string entry, behaviour; // good, nan, overflow, spill (into cells that are no unknowns), fail, wrong_shape
};

struct Owned {
    std::vector<float> single;
    std::vector<double> twice;
};

std::int64_t count(const sciops_tensor &t) {
    std::int64_t n = 1;
    for (int a = 0; a < t.ndim; ++a) n *= t.shape[a];
    return n;
}

template <class T> T *storage(Owned &owned, std::int64_t n);
template <> float *storage<float>(Owned &owned, std::int64_t n) { return owned.single.resize(n), owned.single.data(); }
template <> double *storage<double>(Owned &owned, std::int64_t n) { return owned.twice.resize(n), owned.twice.data(); }

template <class T> T *make(sciops_tensor &out, std::vector<std::int64_t> shape) {
    out = {};
    out.precision = 8 * sizeof(T);
    out.ndim = int(shape.size());
    std::int64_t n = 1;
    for (std::size_t a = 0; a < shape.size(); ++a) n *= out.shape[a] = shape[a];
    auto *owned = new Owned;
    out.handle = owned;
    T *data = storage<T>(*owned, n);
    out.data = data;
    return data;
}

std::vector<std::int64_t> sizes(const sciops_tensor &t, int from) { return {t.shape + from, t.shape + t.ndim}; }

std::vector<std::int64_t> joined(std::vector<std::int64_t> lead, const std::vector<std::int64_t> &rest) {
    lead.insert(lead.end(), rest.begin(), rest.end());
    return lead;
}

// A level whose smoother is the diagonal and whose coarse grid is the even points: symmetric and positive.
template <class T> void run_as(const Network &net, const sciops_tensor *in, sciops_tensor *out) {
    const T *first = static_cast<const T *>(in[0].data);
    if (net.entry == "solve") { // (1, 2, *space) -> (1, 1, *space): twice the first channel plus the second
        const std::int64_t n = count(in[0]) / 2;
        T *u = make<T>(out[0], joined({1, 1}, sizes(in[0], 2)));
        for (std::int64_t i = 0; i < n; ++i) u[i] = 2 * first[i] + first[n + i];
    } else if (net.entry == "apply") { // r, mask -> r mask
        const T *mask = static_cast<const T *>(in[1].data);
        T *z = make<T>(out[0], sizes(in[0], 0));
        for (std::int64_t i = 0; i < count(in[0]); ++i) z[i] = first[i] * mask[i];
    } else if (net.entry == "setup") { // stencil (1, K, P, *blocks) -> step (1, P, *blocks), coarse (1, 9, *blocks)
        const std::int64_t K = in[0].shape[1], n = count(in[0]) / K, blocks = n / in[0].shape[2];
        const T *diagonal = first + K / 2 * n;
        T *step = make<T>(out[0], joined({1}, sizes(in[0], 2)));
        for (std::int64_t i = 0; i < n; ++i) step[i] = diagonal[i] > 0 ? 1 / diagonal[i] : T(0);
        T *coarse = make<T>(out[1], joined({1, 9}, sizes(in[0], 3)));
        for (std::int64_t k = 0; k < 9; ++k)
            for (std::int64_t i = 0; i < blocks; ++i) coarse[k * blocks + i] = k == 4 ? diagonal[i] : T(0);
    } else if (net.entry == "down") { // b, step -> x, coarse
        const T *step = static_cast<const T *>(in[1].data);
        const std::int64_t n = count(in[0]), blocks = n / in[0].shape[1];
        T *x = make<T>(out[0], sizes(in[0], 0));
        for (std::int64_t i = 0; i < n; ++i) x[i] = step[i] * first[i];
        T *coarse = make<T>(out[1], joined({1}, sizes(in[0], 2)));
        std::memcpy(coarse, first, blocks * sizeof(T));
    } else { // up: x, e -> x
        const T *e = static_cast<const T *>(in[1].data);
        const std::int64_t n = count(in[0]), blocks = n / in[0].shape[1];
        T *x = make<T>(out[0], sizes(in[0], 0));
        for (std::int64_t i = 0; i < n; ++i) x[i] = first[i] + (i < blocks ? e[i] : T(0));
    }
    T *answer = const_cast<T *>(static_cast<const T *>(out[0].data));
    if (net.behaviour == "nan") answer[0] = std::numeric_limits<T>::quiet_NaN();
    if (net.behaviour == "spill" && (net.entry == "apply" || net.entry == "up"))
        for (std::int64_t i = 0; i < count(out[0]); ++i) answer[i] += 1;
    if (net.behaviour == "wrong_shape") out[0].shape[out[0].ndim - 1] -= 1;
    if (net.behaviour == "overflow") { // inside the graph; what comes out is finite
        volatile T big = std::numeric_limits<T>::max(), zero = 0;
        volatile T infinite = big * 2, nothing = zero / zero;
        if (infinite < big && nothing == nothing) answer[0] = 0;
    }
}

void *open(const char *package, const char *entry, char *error, std::size_t size) {
    char text[64] = "";
    if (std::FILE *file = std::fopen(package, "r")) {
        if (std::fscanf(file, "%63s", text) != 1) text[0] = '\0';
        std::fclose(file);
    }
    if (std::string(text) == "unopenable") return std::snprintf(error, size, "no such entry"), nullptr;
    return new Network{entry, text};
}

void close(void *network) { delete static_cast<Network *>(network); }

int run(void *network, int, const sciops_tensor *in, int, sciops_tensor *out, int, char *error, std::size_t size) {
    const Network &net = *static_cast<Network *>(network);
    if (net.behaviour == "fail") return std::snprintf(error, size, "it was told to fail"), 1;
    if (in[0].precision == 64)
        run_as<double>(net, in, out);
    else
        run_as<float>(net, in, out);
    return 0;
}

void release(void *handle) { delete static_cast<Owned *>(handle); }

const sciops_backend backend = {SCIOPS_BACKEND_ABI, "2.13.0", open, close, run, release};

} // namespace

extern "C" __attribute__((visibility("default"))) const sciops_backend *sciops_backend_of_this_library() {
    return &backend;
}
