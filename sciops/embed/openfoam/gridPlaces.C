// SPDX-License-Identifier: GPL-3.0-or-later
#include "gridMap.H"

#include "DynamicList.H"

#include <algorithm>
#include <set>

namespace Foam
{
namespace sciopsFoam
{

bool addressingPlaces(const polyMesh& mesh, List<triple>& places, string& why)
{
    const labelUList& lower = mesh.faceOwner();  // of all faces, internal ones first
    const labelUList& upper = mesh.faceNeighbour();
    const label n = mesh.nCells();

    std::set<label> offsets;
    forAll(upper, face)
    {
        offsets.insert(upper[face] - lower[face]);
        if (offsets.size() > 3) break;
    }
    why = "neighbours are not 1, nx and nx ny cells apart";
    if (offsets.empty() || offsets.size() > 3 || *offsets.begin() != 1) return false;

    std::vector<label> step(offsets.begin(), offsets.end());
    const label nx = step.size() > 1 ? step[1] : n;
    const label nxy = step.size() > 2 ? step[2] : n;
    if (nxy % nx || n % nxy) return false;
    const label ny = nxy/nx, nz = n/nxy;
    if (upper.size() != (nx - 1)*ny*nz + nx*(ny - 1)*nz + nx*ny*(nz - 1))
    {
        why = "faces are missing";
        return false;
    }
    forAll(places, cell)
    {
        places[cell][0] = cell % nx;
        places[cell][1] = (cell/nx) % ny;
        places[cell][2] = cell/nxy;
    }
    return true;
}

bool geometryPlaces(const polyMesh& mesh, List<triple>& places, string& why)
{
    const vectorField& centres = mesh.cellCentres();
    const label n = centres.size();

    scalar length = 0;
    for (direction d = 0; d < 3; ++d)
    {
        scalar low = VGREAT, high = -VGREAT;
        forAll(centres, cell)
        {
            low = min(low, centres[cell][d]);
            high = max(high, centres[cell][d]);
        }
        length = max(length, high - low);
    }
    // Points are written with at least ten digits
    const scalar same = 1e-7*length;

    double box = 1;
    for (direction d = 0; d < 3; ++d)
    {
        std::vector<std::pair<scalar, label>> sorted(n);
        forAll(centres, cell) sorted[cell] = std::make_pair(centres[cell][d], cell);
        std::sort(sorted.begin(), sorted.end());
        label index = 0;
        for (label s = 0; s < n; ++s)
        {
            if (s && sorted[s].first - sorted[s - 1].first > same) ++index;
            places[sorted[s].second][d] = index;
        }
        box *= index + 1;
    }
    if (box > 1e9)
    {
        why = "cell centres lie on no common lattice";
        return false;
    }
    return true;
}


namespace
{

// The faces of a hexahedron by axis and side: slot 2 axis + side
typedef FixedList<label, 6> slots;

label common(const face& a, const face& b)
{
    label count = 0;
    forAll(a, v)
    {
        if (b.found(a[v])) ++count;
    }
    return count;
}

// The one face of the cell that shares no vertex with `of`, or -1
label opposite(const cell& c, const faceList& faces, const label of)
{
    label found = -1;
    forAll(c, f)
    {
        if (c[f] != of && !common(faces[c[f]], faces[of]))
        {
            if (found != -1) return -1;
            found = c[f];
        }
    }
    return found;
}

bool hexahedron(const cell& c, const faceList& faces)
{
    if (c.size() != 6) return false;
    forAll(c, f)
    {
        if (faces[c[f]].size() != 4 || opposite(c, faces, c[f]) == -1) return false;
    }
    return true;
}

// Axes of a first cell: the pair of faces that lies most along x becomes i, low side first
void orient(const polyMesh& mesh, const label start, slots& s)
{
    const cell& c = mesh.cells()[start];
    const vectorField& at = mesh.faceCentres();
    DynamicList<labelPair> pairs;
    forAll(c, f)
    {
        const label o = opposite(c, mesh.faces(), c[f]);
        if (c[f] < o) pairs.append(labelPair(c[f], o));
    }
    for (label axis = 0; axis < 3; ++axis)
    {
        label best = -1;
        scalar along = -1;
        forAll(pairs, p)
        {
            const vector d = at[pairs[p].second()] - at[pairs[p].first()];
            const scalar share = mag(d[axis])/max(mag(d), VSMALL);
            if (share > along)
            {
                along = share;
                best = p;
            }
        }
        const labelPair pair = pairs[best];
        const bool up = at[pair.second()][axis] >= at[pair.first()][axis];
        s[2*axis] = up ? pair.first() : pair.second();
        s[2*axis + 1] = up ? pair.second() : pair.first();
        pairs.remove(best);
    }
}

// Slots of the cell `to` beyond slot `through` of a cell with slots `from`
bool carry(const polyMesh& mesh, const slots& from, const label through, const label to, slots& s)
{
    const faceList& faces = mesh.faces();
    const cell& c = mesh.cells()[to];
    const label shared = from[through];
    s[through ^ 1] = shared;
    s[through] = opposite(c, faces, shared);
    for (label slot = 0; slot < 6; ++slot)
    {
        if (slot/2 == through/2) continue;
        const face& side = faces[from[slot]];
        s[slot] = -1;
        forAll(c, f)
        {
            if (c[f] == s[through] || c[f] == shared) continue;
            // Both contain the same edge of the shared face
            label ends = 0;
            forAll(faces[shared], v)
            {
                const label vertex = faces[shared][v];
                if (side.found(vertex) && faces[c[f]].found(vertex)) ++ends;
            }
            if (ends == 2) s[slot] = c[f];
        }
        if (s[slot] == -1) return false;
    }
    return true;
}

} // namespace


bool topologyPlaces(const polyMesh& mesh, List<triple>& places, string& why)
{
    const cellList& cells = mesh.cells();
    const labelUList& own = mesh.faceOwner();
    const labelUList& neighbour = mesh.faceNeighbour();

    forAll(cells, c)
    {
        if (!hexahedron(cells[c], mesh.faces()))
        {
            why = "cell " + std::to_string(c) + " is no hexahedron with six neighbours at most";
            return false;
        }
    }

    List<slots> slot(cells.size());
    boolList seen(cells.size(), false);
    DynamicList<label> queue(cells.size());
    label next = 0;  // where the next part that hangs on nothing may start
    forAll(cells, start)
    {
        if (seen[start]) continue;
        queue.clear();
        queue.append(start);
        seen[start] = true;
        places[start] = 0;
        orient(mesh, start, slot[start]);
        for (label q = 0; q < queue.size(); ++q)
        {
            const label here = queue[q];
            for (label s = 0; s < 6; ++s)
            {
                const label f = slot[here][s];
                if (!mesh.isInternalFace(f)) continue;
                const label there = own[f] == here ? neighbour[f] : own[f];
                triple place(places[here]);
                place[s/2] += s % 2 ? 1 : -1;
                slots carried;
                if (!carry(mesh, slot[here], s, there, carried))
                {
                    why = "cell " + std::to_string(there) + " does not continue its neighbour";
                    return false;
                }
                if (!seen[there])
                {
                    seen[there] = true;
                    places[there] = place;
                    slot[there] = carried;
                    queue.append(there);
                }
                else if (places[there] != place || slot[there] != carried)
                {
                    why = "blocks close on themselves at cell " + std::to_string(there);
                    return false;
                }
            }
        }
        label low = places[start][0], high = low;
        forAll(queue, q)
        {
            low = min(low, places[queue[q]][0]);
            high = max(high, places[queue[q]][0]);
        }
        forAll(queue, q) places[queue[q]][0] += next - low;
        next += high - low + 2;
    }
    return true;
}

} // namespace sciopsFoam
} // namespace Foam
