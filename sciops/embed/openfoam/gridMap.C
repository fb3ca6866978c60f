// SPDX-License-Identifier: GPL-3.0-or-later
#include "gridMap.H"

#include "SortableList.H"

#include <cmath>

namespace Foam
{
namespace sciopsFoam
{

// A box that is emptier than this wastes more on no-cells than the network can win
static const label boxPerCell = 8;

bool gridMap::find(const polyMesh& mesh, const word& method, string& why)
{
    typedef bool (*finder)(const polyMesh&, List<triple>&, string&);
    const finder finders[3] = {addressingPlaces, geometryPlaces, topologyPlaces};
    const char* const names[3] = {"addressing", "geometry", "topology"};

    bool known = false;
    string reasons;
    for (int way = 0; way < 3; ++way)
    {
        if (method != "auto" && method != names[way]) continue;
        known = true;
        List<triple> places(mesh.nCells());
        string reason;
        if (finders[way](mesh, places, reason) && fit(mesh, places, reason))
        {
            method_ = names[way];
            return true;
        }
        reasons += (reasons.empty() ? "by " : ", by ") + string(names[way]) + " " + reason;
    }
    why = known
      ? "the " + std::to_string(mesh.nCells()) + " cells of the mesh are no structured grid (" + reasons
      + "); use a block-structured hexahedral mesh"
      : "grid '" + string(method) + "' is not known; give auto, addressing, geometry or topology";
    return false;
}

bool gridMap::fit(const polyMesh& mesh, List<triple>& places, string& why)
{
    const labelUList& lower = mesh.faceOwner();  // of all faces, internal ones first
    const labelUList& upper = mesh.faceNeighbour();

    triple first(0), last(0);
    forAll(places, cell)
    {
        for (label a = 0; a < 3; ++a)
        {
            first[a] = cell ? min(first[a], places[cell][a]) : places[cell][a];
            last[a] = cell ? max(last[a], places[cell][a]) : places[cell][a];
        }
    }
    double box = 1;
    for (label a = 0; a < 3; ++a)
    {
        extent_[a] = last[a] - first[a] + 1;
        box *= extent_[a];
    }
    if (box > double(boxPerCell)*max(places.size(), label(8)))
    {
        why = "the box around them would have " + std::to_string((long long)(box)) + " places";
        return false;
    }

    place_.setSize(places.size());
    boolList taken(label(box), false);
    forAll(places, cell)
    {
        const triple& p = places[cell];
        place_[cell] = p[0] - first[0] + extent_[0]*(p[1] - first[1] + extent_[1]*(p[2] - first[2]));
        if (taken[place_[cell]])
        {
            why = "two cells fall on one place";
            return false;
        }
        taken[place_[cell]] = true;
    }

    faceAxis_.setSize(upper.size());
    faceCell_.setSize(upper.size());
    forAll(upper, face)
    {
        label axis = -1, apart = 0, step = 0;
        for (label a = 0; a < 3; ++a)
        {
            const label d = places[upper[face]][a] - places[lower[face]][a];
            apart += mag(d);
            if (d)
            {
                axis = a;
                step = d;
            }
        }
        if (apart != 1)
        {
            why = "face " + std::to_string(face) + " joins cells that are no neighbours";
            return false;
        }
        faceAxis_[face] = axis;
        faceCell_[face] = step > 0 ? lower[face] : upper[face];
    }
    return true;
}

word gridMap::text() const
{
    std::string s;
    const int n = ndim();
    const std::vector<std::int64_t> sizes(shape(n));
    for (int a = n - 1; a >= 0; --a) s += std::to_string(sizes[a]) + (a ? "x" : "");
    return word(s);
}

int gridMap::ndim() const
{
    return extent_[0] > 1 && extent_[1] > 1 && extent_[2] > 1 ? 3 : 2;
}

label gridMap::channel(const label axis, const int ndim) const
{
    if (ndim == 3) return 3 - axis;
    // One axis of a two-dimensional grid is a singleton: the last of them is left out
    const label out = extent_[2] == 1 ? 2 : extent_[1] == 1 ? 1 : 0;
    return 2 - (axis - (axis > out));
}

std::vector<std::int64_t> gridMap::shape(const int ndim) const
{
    std::vector<std::int64_t> sizes(ndim, 1);
    const label out = ndim == 3 ? -1 : extent_[2] == 1 ? 2 : extent_[1] == 1 ? 1 : 0;
    for (label a = 0; a < 3; ++a)
    {
        if (a != out) sizes[channel(a, ndim) - 1] = extent_[a];
    }
    return sizes;
}

bool gridMap::matrix
(
    const lduMatrix& A,
    const int ndim,
    std::vector<double>& m,
    double& mean,
    string& why
) const
{
    const scalarField& diag = A.diag();
    const scalarField& upper = A.upper();
    const std::size_t n = size();

    mean = 0;
    forAll(diag, cell) mean += diag[cell];
    mean /= max(diag.size(), label(1));
    if (!std::isfinite(mean) || mean == 0)
    {
        why = "the mean of the matrix's diagonal is zero or not finite";
        return false;
    }

    m.assign((1 + ndim)*n, 0.0);
    forAll(diag, cell)
    {
        const double d = diag[cell]/mean;
        if (!(d > 0))
        {
            why = "the matrix's diagonal has both signs (cell " + std::to_string(cell)
              + "); a symmetric definite matrix such as that of a pressure equation is accepted";
            return false;
        }
        m[place_[cell]] = d;
    }
    // The weakest of legitimate couplings are tiny; rounding may turn them
    const double rounding = 1e-12;
    forAll(upper, face)
    {
        const double c = -upper[face]/mean;
        if (c < -rounding)
        {
            why = "a coupling of the matrix has the sign of its diagonal (face " + std::to_string(face)
              + "); the couplings of a Laplacian have the other one";
            return false;
        }
        m[channel(faceAxis_[face], ndim)*n + place_[faceCell_[face]]] = max(c, 0.0);
    }
    return true;
}

void gridMap::scatter(const solveScalarField& x, const double scale, std::vector<double>& array) const
{
    forAll(x, cell) array[place_[cell]] = scale*x[cell];
}

void gridMap::gather(const std::vector<double>& array, const double scale, solveScalarField& x) const
{
    forAll(x, cell) x[cell] = scale*array[place_[cell]];
}

} // namespace sciopsFoam
} // namespace Foam
