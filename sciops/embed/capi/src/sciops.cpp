/* The C interface: arguments are checked, traps are held, nothing is thrown. SPDX-License-Identifier: Apache-2.0 */
#pragma GCC visibility push(default)
#include "sciops.h"
#pragma GCC visibility pop

#include <cstdio>
#include <memory>
#include <string>

#include "failure.hpp"
#include "floating_point.hpp"
#include "krylov.hpp"
#include "model.hpp"
#include "preconditioner.hpp"

#ifndef SCIOPS_VERSION_TEXT
#define SCIOPS_VERSION_TEXT "0 (built by hand)"
#endif

struct sciops_model {
    std::shared_ptr<const sciops::Model> model;
};

struct sciops_preconditioner {
    std::unique_ptr<const sciops::Preconditioner> preconditioner; /* keeps what it needs of the model alive */
};

namespace {

using sciops::attempt;
using sciops::Failure;
using sciops::Kind;
using sciops::QuietFloatingPoint;
using sciops::Shape;

void require(const void *pointer, const char *name) {
    if (pointer == nullptr)
        throw Failure(SCIOPS_VALUE, std::string("The argument '") + name + "' is a null pointer; give an address.");
}

Shape shape_of(int ndim, const std::int64_t *shape) {
    require(shape, "shape");
    if (ndim < 1 || ndim > 3)
        throw Failure(SCIOPS_SHAPE, "A grid has 1, 2 or 3 axes and was given " + std::to_string(ndim) + "; mend ndim.");
    constexpr std::int64_t most = std::int64_t(1) << 40; /* points; their count must not overflow */
    std::int64_t count = 1;
    for (int axis = 0; axis < ndim; ++axis) {
        if (shape[axis] < 1)
            throw Failure(SCIOPS_SHAPE, "Axis " + std::to_string(axis) + " of the grid has " +
                                            std::to_string(shape[axis]) + " points; give a positive number.");
        if (shape[axis] > most / count)
            throw Failure(SCIOPS_SHAPE, "The grid has more than 2^40 points; give a smaller one.");
        count *= shape[axis];
    }
    return Shape(shape, shape + ndim);
}

} // namespace

extern "C" {

int sciops_load(const char *path, const sciops_options *options, sciops_model **model) {
    const QuietFloatingPoint quiet;
    if (model != nullptr) *model = nullptr;
    return attempt([&] {
        require(path, "path");
        require(model, "model");
        const int precision = options != nullptr ? options->precision : 0;
        const int threads = options != nullptr ? options->threads : 0;
        if (threads < 0) throw Failure(SCIOPS_VALUE, "The number of threads is negative; give 0 to leave it alone.");
        std::string folder(path);
        while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
        auto loaded = std::make_shared<const sciops::Model>(folder, precision, threads);
        *model = new sciops_model{std::move(loaded)};
        return SCIOPS_OK;
    });
}

void sciops_free(sciops_model *model) {
    const QuietFloatingPoint quiet;
    delete model;
}

const char *sciops_describe(const sciops_model *model) {
    return model == nullptr ? "" : model->model->manifest().text.c_str();
}

int sciops_channels(const sciops_model *model, int *inputs, int *outputs) {
    return attempt([&] {
        require(model, "model");
        const sciops::Manifest &manifest = model->model->manifest();
        const bool fields = manifest.kind == Kind::operator_;
        if (inputs != nullptr) *inputs = fields ? int(manifest.inputs.size()) : 1;
        if (outputs != nullptr) *outputs = fields ? int(manifest.outputs.size()) : 1;
        return SCIOPS_OK;
    });
}

int sciops_is_linear(const sciops_model *model) {
    if (model == nullptr) return 0;
    const sciops::Manifest &manifest = model->model->manifest();
    return manifest.linear && manifest.symmetric && manifest.positive ? 1 : 0;
}

int sciops_accepts(const sciops_model *model, int ndim, const int64_t *shape) {
    const sciops_status status = attempt([&] {
        require(model, "model");
        const std::string refusal = model->model->manifest().refuses(shape_of(ndim, shape));
        if (!refusal.empty()) throw Failure(SCIOPS_SHAPE, refusal);
        return SCIOPS_OK;
    });
    return status == SCIOPS_OK ? 1 : 0;
}

int sciops_solve(const sciops_model *model, int ndim, const int64_t *shape, const double *input, double *output,
                 sciops_range *range) {
    const QuietFloatingPoint quiet;
    return attempt([&] {
        require(model, "model");
        require(input, "input");
        require(output, "output");
        model->model->solve(shape_of(ndim, shape), input, output, range);
        return SCIOPS_OK;
    });
}

int sciops_setup(const sciops_model *model, int ndim, const int64_t *shape, const double *matrix,
                 sciops_preconditioner **preconditioner) {
    const QuietFloatingPoint quiet;
    if (preconditioner != nullptr) *preconditioner = nullptr;
    return attempt([&] {
        require(model, "model");
        require(matrix, "matrix");
        require(preconditioner, "preconditioner");
        const sciops::Manifest &manifest = model->model->manifest();
        if (manifest.kind == Kind::operator_)
            throw Failure(SCIOPS_KIND, "The artefact '" + manifest.name +
                                           "' is an operator and no preconditioner; use sciops_solve.");
        const Shape space = shape_of(ndim, shape);
        const std::string refusal = manifest.refuses(space);
        if (!refusal.empty()) throw Failure(SCIOPS_SHAPE, refusal);
        auto A = std::make_shared<const sciops::GridMatrix>(space, matrix);
        auto made = manifest.kind == Kind::multigrid ? sciops::make_multigrid(model->model, std::move(A))
                                                     : sciops::make_direction(model->model, std::move(A));
        *preconditioner = new sciops_preconditioner{std::move(made)};
        return SCIOPS_OK;
    });
}

int sciops_apply(const sciops_preconditioner *preconditioner, const double *r, double *z) {
    const QuietFloatingPoint quiet;
    return attempt([&] {
        require(preconditioner, "preconditioner");
        require(r, "r");
        require(z, "z");
        preconditioner->preconditioner->apply(r, z);
        return SCIOPS_OK;
    });
}

void sciops_preconditioner_free(sciops_preconditioner *preconditioner) {
    const QuietFloatingPoint quiet;
    delete preconditioner;
}

int sciops_fcg(const sciops_preconditioner *preconditioner, const double *b, double *x, const sciops_krylov *options,
               sciops_report *report) {
    const QuietFloatingPoint quiet;
    return attempt([&] {
        require(preconditioner, "preconditioner");
        require(b, "b");
        require(x, "x");
        sciops_report found{};
        const sciops::Preconditioner &f = *preconditioner->preconditioner;
        const sciops_krylov settings = sciops::completed(options, f);
        const sciops_status status = sciops::flexible_cg(f, b, x, settings, found);
        if (report != nullptr) *report = found;
        if (status == SCIOPS_NOT_CONVERGED) {
            char text[256];
            std::snprintf(text, sizeof text,
                          "The residual is %.2e after %d iterations and not below %.2e; allow more iterations, or a "
                          "tolerance that rounding can reach.",
                          found.residual, found.iterations, settings.tolerance);
            sciops::set_last_error(text);
        }
        return status;
    });
}

const char *sciops_last_error(void) { return sciops::last_error(); }

const char *sciops_version(void) { return SCIOPS_VERSION_TEXT; }

} // extern "C"
