/* The JSON of manifests: a strict, small reader (RFC 8259). SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <map>
#include <string>
#include <vector>

namespace sciops {

class Json {
public:
    enum class Type { null, boolean, number, string, array, object };

    static Json parse(const std::string &text); /* throws std::runtime_error with the byte where it stopped */

    Type type() const { return type_; }
    bool is_null() const { return type_ == Type::null; }
    bool boolean() const;
    double number() const;
    const std::string &string() const;
    const std::vector<Json> &array() const;
    const std::map<std::string, Json> &object() const;
    /* The member `name` of an object; null where it is absent. */
    const Json &operator[](const std::string &name) const;

private:
    friend class JsonReader;
    void require(Type type, const char *what) const;

    Type type_ = Type::null;
    bool boolean_ = false;
    double number_ = 0.0;
    std::string string_;
    std::vector<Json> array_;
    std::map<std::string, Json> object_;
};

} // namespace sciops
