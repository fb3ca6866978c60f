// SPDX-License-Identifier: GPL-3.0-or-later
#include "trainedBlock.H"

#include "HashSet.H"
#include "MeshObject.H"
#include "PstreamReduceOps.H"
#include "fileName.H"

#include <cmath>
#include <map>

namespace Foam
{
namespace sciopsFoam
{

// What is known about one mesh. Addressing survives motion, so it goes with a change of topology alone.
class meshCache
:
    public MeshObject<polyMesh, TopologicalMeshObject, meshCache>
{
public:

    mutable std::map<std::string, std::pair<gridMap, string>> maps;  // by method; with why there is none
    mutable std::map<std::string, std::shared_ptr<setUp>> setUps;    // by field and model

    ClassName("sciopsMeshCache");

    explicit meshCache(const polyMesh& mesh)
    :
        MeshObject<polyMesh, TopologicalMeshObject, meshCache>(mesh)
    {}
};

defineTypeNameAndDebug(meshCache, 0);


namespace
{

// Kept until the process ends: static destructors could run after those of the library that runs networks
std::map<std::string, sciops_model*>& models()
{
    static auto* const all = new std::map<std::string, sciops_model*>;
    return *all;
}

HashSet<string>& disabled()
{
    static HashSet<string> keys;
    return keys;
}

bool load(const dictionary& dict, const fileName& path, sciops_model*& model, string& why)
{
    sciops_options options;
    options.precision = dict.lookupOrDefault<label>("precision", 0);
    options.threads = dict.lookupOrDefault<label>("threads", 1);
    const std::string key =
        path + "|" + std::to_string(options.precision) + "|" + std::to_string(options.threads);
    const auto known = models().find(key);
    if (known != models().end())
    {
        model = known->second;
        return true;
    }
    if (sciops_load(path.c_str(), &options, &model) != SCIOPS_OK)
    {
        why = sciops_last_error();
        return false;
    }
    models()[key] = model;
    return true;
}

bool unchanged(const std::vector<double>& a, const std::vector<double>& b, const double reuse)
{
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
    {
        if (!(std::fabs(a[i] - b[i]) <= reuse)) return false;
    }
    return true;
}

string trimmed(string s)
{
    while (!s.empty() && (s.back() == '.' || s.back() == '\n' || s.back() == ' ')) s.pop_back();
    return s;
}

} // namespace


trainedBlock::trainedBlock
(
    const lduMatrix::solver& solver,
    const dictionary& dict,
    const bool linearOnly
)
:
    solver_(solver),
    dict_(dict),
    good_(false),
    linear_(false)
{
    const word onFailure(dict.lookupOrDefault<word>("onFailure", "stop"));
    if (onFailure != "stop" && onFailure != "native")
    {
        FatalIOErrorInFunction(dict)
            << "onFailure is '" << onFailure << "'; give stop or native" << exit(FatalIOError);
    }
    key_ = solver.fieldName() + "|" + dict.get<string>("model");
    if (disabled().found(key_)) return;  // on all processors or on none

    string why;
    prepare(linearOnly, why);
    good_ = why.empty();
    good_ = agree(good_, why);
    if (!good_) fail(why);
}


bool trainedBlock::prepare(const bool linearOnly, string& why)
{
    const lduMatrix& A = solver_.matrix();
    const polyMesh* mesh = dynamic_cast<const polyMesh*>(&A.mesh());
    if (!mesh || mesh->nCells() != A.diag().size() || mesh->nInternalFaces() != A.upper().size())
    {
        why = "the matrix is not one of the cells of a mesh (a coarse level of GAMG, for instance)";
        return false;
    }

    // A processor may have no cells; it still has to know the kind of the artefact
    const bool cells = mesh->nCells() > 0;
    const meshCache& cache = meshCache::New(*mesh);
    const word method(dict_.lookupOrDefault<word>("grid", "auto"));
    if (cells && !cache.maps.count(method))
    {
        std::pair<gridMap, string>& entry = cache.maps[method];
        if (entry.first.find(*mesh, method, entry.second))
        {
            (Pstream::parRun() ? Pout() : Info())
                << "sciops: " << mesh->nCells() << " cells on a grid of " << entry.first.text()
                << " (" << entry.first.method() << ")" << endl;
        }
    }
    const gridMap& map = cache.maps[method].first;
    why = cache.maps[method].second;
    if (!why.empty()) return false;

    fileName path(dict_.get<string>("model"));
    path.expand();
    sciops_model* model = nullptr;
    if (!load(dict_, path, model, why)) return false;
    linear_ = sciops_is_linear(model);
    if (linearOnly && !linear_)
    {
        why = "the artefact " + path + " is nonlinear, which conjugate gradients cannot use; "
            "choose it with 'solver sciopsFCG'";
        return false;
    }
    if (!cells) return true;

    int ndim = map.ndim();
    std::vector<std::int64_t> shape(map.shape(ndim));
    if (!sciops_accepts(model, ndim, shape.data()))
    {
        why = sciops_last_error();
        // A part of a three-dimensional mesh may be one cell thick
        if (ndim == 3) return false;
        ndim = 3;
        shape = map.shape(ndim);
        if (!sciops_accepts(model, ndim, shape.data())) return false;
        why.clear();
    }

    std::vector<double> matrix;
    double mean;
    if (!map.matrix(A, ndim, matrix, mean, why)) return false;

    const string key = key_ + "|" + method;
    std::shared_ptr<setUp>& known = cache.setUps[key];
    const double reuse = dict_.lookupOrDefault<scalar>("reuse", 0);
    if (!known || known->ndim != ndim || !unchanged(known->matrix, matrix, reuse))
    {
        known.reset(new setUp);
        known->map = map;
        known->ndim = ndim;
        if (sciops_setup(model, ndim, shape.data(), matrix.data(), &known->handle) != SCIOPS_OK)
        {
            why = sciops_last_error();
            known.reset();
            return false;
        }
        known->matrix.swap(matrix);
    }
    known->mean = mean;
    setUp_ = known;
    r_.assign(map.size(), 0.0);
    z_.assign(map.size(), 0.0);
    return true;
}


bool trainedBlock::apply(solveScalarField& z, const solveScalarField& r, string& why) const
{
    scalar largest = 0;
    forAll(r, cell) largest = max(largest, scalar(mag(r[cell])));
    z = Zero;
    if (largest == 0) return true;
    // A power of two changes no digit
    int exponent;
    std::frexp(largest, &exponent);
    const double power = std::ldexp(1.0, exponent);
    setUp_->map.scatter(r, 1/power, r_);
    if (sciops_apply(setUp_->handle, r_.data(), z_.data()) != SCIOPS_OK)
    {
        why = sciops_last_error();
        return false;
    }
    setUp_->map.gather(z_, power/setUp_->mean, z);
    return true;
}


bool trainedBlock::agree(const bool good, string& why) const
{
    const label comm = solver_.matrix().mesh().comm();
    scalar failed = !good;
    reduce(failed, sumOp<scalar>(), Pstream::msgType(), comm);
    if (failed > 0) reduce(why, firstReason(), Pstream::msgType(), comm);
    return failed == 0;
}


void trainedBlock::fail(const string& why) const
{
    const string sentence = "sciops, field " + solver_.fieldName() + ": " + trimmed(why);
    if (dict_.lookupOrDefault<word>("onFailure", "stop") == "stop")
    {
        FatalErrorInFunction
            << sentence.c_str() << "; 'onFailure native;' would go on without the network." << exit(FatalError);
    }
    if (disabled().insert(key_) && Pstream::master())
    {
        WarningInFunction << sentence.c_str() << "; the native solver goes on." << endl;
    }
}

} // namespace sciopsFoam
} // namespace Foam
