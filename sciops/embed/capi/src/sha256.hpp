/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <string>

namespace sciops {

/* SHA-256 (FIPS 180-4) of a file as 64 lower-case hexadecimal digits; throws Failure if it cannot be read. */
std::string sha256_of_file(const std::string &path);

} // namespace sciops
