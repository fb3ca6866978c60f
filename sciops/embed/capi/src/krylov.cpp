/* Flexible conjugate gradients with a safeguarded direction.
 *
 * x <- x + (q.r / q.Aq) q with q = f(r) made A-orthogonal to the last `window` directions (Notay, SIAM J. Sci. Comput.
 * 22, 2000). A network that repeats itself leaves only noise after orthogonalisation, and the residual would stand
 * still for good: with `safeguard` the same is done with r / diag, and the one that lowers the energy more is taken.
 * Without it r / diag takes over only where the network's direction is not finite or all but useless.
 * SPDX-License-Identifier: Apache-2.0 */
#include "krylov.hpp"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>

#include "failure.hpp"

namespace sciops {

namespace {

using Vector = std::vector<double>;

constexpr double epsilon = std::numeric_limits<double>::epsilon();
constexpr double useful = 1e-3; /* share of what r / diag would gain below which a direction is not used */
constexpr double nearly_parallel = 4096 * epsilon; /* A-cosine above which a direction is orthogonalised once more */
constexpr int refresh = 20;                        /* steps after which the true residual replaces the recursive one */
constexpr int patience = 3;                        /* true residuals in a row that rounding keeps from improving */

double inner(const Vector &u, const Vector &v) {
    double sum[4] = {}; // four chains, so that additions need not wait for one another
    const std::size_t n = u.size(), whole = n - n % 4;
    for (std::size_t i = 0; i < whole; i += 4)
        for (int k = 0; k < 4; ++k) sum[k] += u[i + k] * v[i + k];
    for (std::size_t i = whole; i < n; ++i) sum[0] += u[i] * v[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

double norm(const Vector &v) { return std::sqrt(inner(v, v)); }

void add(Vector &y, double factor, const Vector &x) {
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += factor * x[i];
}

struct Direction {
    Vector q, Aq;
    double energy = 0.0; /* q.Aq */
    double slope = 0.0;  /* q.r */
    bool usable = false;
    double gain() const { return usable ? slope / energy * slope : 0.0; }
};

class Solve {
public:
    Solve(const Preconditioner &f, const sciops_krylov &options) : f_(f), A_(f.matrix()), options_(options) {
        if (options.null_space) sets_ = A_.components(labels_);
        counts_.assign(sets_, 0.0);
        for (const auto label : labels_)
            if (label >= 0) counts_[label] += 1.0;
    }

    sciops_status run(const double *b, double *x, sciops_report &report) {
        begin(b, x);
        double size = true_residual(), last = std::numeric_limits<double>::infinity();
        int stalls = 0, done = 0;
        while (size > goal_ && done < options_.maxiter && stalls < patience) {
            step();
            ++done;
            size = norm(r_);
            if (!std::isfinite(size))
                throw Failure(SCIOPS_VALUE, "The residual of A x = b overflows; scale the matrix and b.");
            const bool claims = size <= goal_;
            if (!claims && done % refresh != 0) continue;
            size = true_residual();
            stalls = claims && size > goal_ && size > 0.5 * last ? stalls + 1 : 0;
            last = std::min(last, size);
        }
        size = true_residual();
        for (std::int64_t i = 0; i < A_.size(); ++i) x[i] = std::ldexp(x_[i], exponent_);
        report = {done, fallbacks_, scale_ > 0.0 ? size / scale_ : 0.0};
        return size <= goal_ ? SCIOPS_OK : SCIOPS_NOT_CONVERGED;
    }

private:
    /* b and the start off the null space, divided by a power of two so that nothing overflows. */
    void begin(const double *b, const double *x) {
        const std::size_t n = std::size_t(A_.size());
        double largest = 0.0;
        for (std::size_t i = 0; i < n; ++i) {
            if (!std::isfinite(b[i]))
                throw Failure(SCIOPS_VALUE, "The right-hand side has a value that is not finite; mend it.");
            if (!std::isfinite(x[i]))
                throw Failure(SCIOPS_VALUE, "The start x has a value that is not finite; start from zero.");
            largest = std::fmax(largest, std::fabs(b[i]));
        }
        exponent_ = 0;
        if (largest > 0.0) std::frexp(largest, &exponent_);
        exponent_ = std::clamp(exponent_, -1000, 1000);
        b_.resize(n), x_.resize(n), r_.resize(n);
        for (std::size_t i = 0; i < n; ++i) b_[i] = std::ldexp(b[i], -exponent_), x_[i] = std::ldexp(x[i], -exponent_);
        clean(b_), clean(x_);
        scale_ = norm(b_);
        goal_ = options_.tolerance * scale_;
    }

    /* v off the null space and zero where there is no unknown. */
    void clean(Vector &v) const {
        for (std::size_t i = 0; i < v.size(); ++i)
            if (!A_.unknown(std::int64_t(i))) v[i] = 0.0;
        if (sets_ == 0) return;
        Vector means(sets_, 0.0);
        for (std::size_t i = 0; i < v.size(); ++i)
            if (labels_[i] >= 0) means[labels_[i]] += v[i];
        for (std::int64_t set = 0; set < sets_; ++set) means[set] /= counts_[set];
        for (std::size_t i = 0; i < v.size(); ++i)
            if (labels_[i] >= 0) v[i] -= means[labels_[i]];
    }

    double true_residual() {
        clean(x_);
        A_.multiply(x_.data(), r_.data());
        for (std::size_t i = 0; i < r_.size(); ++i) r_[i] = b_[i] - r_[i];
        clean(r_);
        return norm(r_);
    }

    void step() {
        Direction best = from_network();
        if (options_.safeguard || !best.usable || poor(best)) {
            Direction plain = conjugate(scaled_residual());
            if (!plain.usable && !best.usable)
                throw Failure(SCIOPS_VALUE, "The matrix is not positive definite; set null_space if constants solve "
                                            "A x = 0, otherwise check its sign and its couplings.");
            if (plain.gain() >= best.gain() * (1.0 + 1e-12)) best = std::move(plain), ++fallbacks_;
        }
        const double length = best.slope / best.energy;
        add(x_, length, best.q);
        add(r_, -length, best.Aq);
        if (options_.window > 0) {
            if (int(window_.size()) == options_.window) window_.pop_front();
            window_.push_back(std::move(best));
        }
    }

    Direction from_network() const {
        Vector z(r_.size());
        try {
            f_.apply(r_.data(), z.data());
        } catch (const Failure &failure) {
            if (failure.status() != SCIOPS_NONFINITE) throw;
            return {};
        }
        return conjugate(std::move(z));
    }

    Vector scaled_residual() const {
        Vector z(r_.size(), 0.0);
        for (std::size_t i = 0; i < z.size(); ++i)
            if (A_.unknown(std::int64_t(i))) z[i] = r_[i] / A_.diagonal()[i];
        return z;
    }

    /* Does it gain much less than the scaled residual would, its curvature taken as that of the diagonal? */
    bool poor(const Direction &d) const {
        const Vector z = scaled_residual();
        return std::fabs(d.slope) < useful * std::sqrt(d.energy * inner(z, r_));
    }

    Direction conjugate(Vector q) const {
        clean(q);
        double largest = 0.0;
        for (const double value : q) largest = std::fmax(largest, std::fabs(value));
        if (!(largest > 0.0) || !std::isfinite(largest)) return {};
        for (double &value : q) value /= largest;
        Direction d{std::move(q), Vector(r_.size())};
        bool again = true;
        for (int pass = 0; pass < 2 && again; ++pass) {
            for (const Direction &p : window_) add(d.q, -inner(d.q, p.Aq) / p.energy, p.q);
            A_.multiply(d.q.data(), d.Aq.data());
            d.energy = inner(d.q, d.Aq);
            again = false;
            for (const Direction &p : window_)
                again |= std::fabs(inner(d.Aq, p.q)) > nearly_parallel * std::sqrt(std::fabs(d.energy) * p.energy);
        }
        d.slope = inner(d.q, r_);
        double size = 0.0; // of rounding in q.Aq
        for (std::size_t i = 0; i < d.q.size(); ++i) size += A_.diagonal()[i] * d.q[i] * d.q[i];
        d.usable = std::isfinite(d.energy) && std::isfinite(d.slope) && d.energy > epsilon * size;
        return d;
    }

    const Preconditioner &f_;
    const GridMatrix &A_;
    const sciops_krylov options_;
    std::vector<std::int64_t> labels_;
    std::int64_t sets_ = 0;
    Vector counts_, b_, x_, r_;
    std::deque<Direction> window_;
    double scale_ = 0.0, goal_ = 0.0;
    int exponent_ = 0, fallbacks_ = 0;
};

} // namespace

sciops_krylov completed(const sciops_krylov *options, const Preconditioner &preconditioner) {
    const bool direction = preconditioner.model().manifest().kind == Kind::direction;
    sciops_krylov out = {1e-8, 500, 0, direction ? 1 : 0, 0};
    if (options != nullptr) out = *options;
    if (!(out.tolerance >= 0.0) || out.maxiter < 0 || out.window < 0)
        throw Failure(SCIOPS_VALUE, "sciops_fcg needs tolerance >= 0, maxiter >= 0 and window >= 0; mend the options.");
    if (out.window == 0) out.window = direction ? 8 : 1;
    return out;
}

sciops_status flexible_cg(const Preconditioner &preconditioner, const double *b, double *x,
                          const sciops_krylov &options, sciops_report &report) {
    return Solve(preconditioner, options).run(b, x, report);
}

} // namespace sciops
