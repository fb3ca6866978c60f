/* SPDX-License-Identifier: Apache-2.0 */
#include "json.hpp"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace sciops {

class JsonReader {
public:
    explicit JsonReader(const std::string &text) : text_(text) {}

    Json document() {
        Json value = read(0);
        blanks();
        if (at_ != text_.size()) fail("nothing more");
        return value;
    }

private:
    static constexpr int deepest = 64;

    [[noreturn]] void fail(const char *expected) const {
        throw std::runtime_error("byte " + std::to_string(at_) + ": expected " + expected);
    }

    void blanks() { at_ = std::min(text_.find_first_not_of(" \n\r\t", at_), text_.size()); }

    bool take(char c) {
        if (at_ >= text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }

    bool take_word(const char *word) {
        const std::string expected(word);
        if (text_.compare(at_, expected.size(), expected) != 0) return false;
        at_ += expected.size();
        return true;
    }

    Json read(int depth) {
        if (depth > deepest) fail("less nesting");
        blanks();
        Json value;
        if (take('{')) {
            value.type_ = Json::Type::object;
            members(value, depth);
        } else if (take('[')) {
            value.type_ = Json::Type::array;
            elements(value, depth);
        } else if (at_ < text_.size() && text_[at_] == '"') {
            value.type_ = Json::Type::string;
            value.string_ = characters();
        } else if (take_word("true") || take_word("false")) {
            value.type_ = Json::Type::boolean;
            value.boolean_ = text_[at_ - 2] == 'u'; // tr-u-e, fal-s-e
        } else if (!take_word("null")) {
            value.type_ = Json::Type::number;
            value.number_ = figure();
        }
        return value;
    }

    void members(Json &value, int depth) {
        blanks();
        if (take('}')) return;
        do {
            blanks();
            std::string name = characters();
            blanks();
            if (!take(':')) fail("':'");
            value.object_.insert_or_assign(std::move(name), read(depth + 1));
            blanks();
        } while (take(','));
        if (!take('}')) fail("',' or '}'");
    }

    void elements(Json &value, int depth) {
        blanks();
        if (take(']')) return;
        do {
            value.array_.push_back(read(depth + 1));
            blanks();
        } while (take(','));
        if (!take(']')) fail("',' or ']'");
    }

    double figure() {
        // from_chars, unlike strtod, does not read the decimal point of the host's locale.
        const char *first = text_.data() + at_, *last = text_.data() + text_.size();
        const char *digits = first < last && *first == '-' ? first + 1 : first;
        if (digits == last || *digits < '0' || *digits > '9') fail("a value");
        double number = 0.0;
        const auto [end, error] = std::from_chars(first, last, number);
        if (error != std::errc()) fail("a number");
        at_ += std::size_t(end - first);
        return number;
    }

    unsigned code_unit() {
        unsigned code = 0;
        if (at_ + 4 > text_.size()) fail("four hexadecimal digits");
        const char *first = text_.data() + at_;
        const auto [end, error] = std::from_chars(first, first + 4, code, 16);
        if (error != std::errc() || end != first + 4) fail("four hexadecimal digits");
        at_ += 4;
        return code;
    }

    void escaped(std::string &out) {
        const char c = at_ < text_.size() ? text_[at_++] : '\0';
        switch (c) {
        case '"':
        case '\\':
        case '/': out += c; return;
        case 'b': out += '\b'; return;
        case 'f': out += '\f'; return;
        case 'n': out += '\n'; return;
        case 'r': out += '\r'; return;
        case 't': out += '\t'; return;
        case 'u': break;
        default: fail("an escape of JSON");
        }
        unsigned code = code_unit();
        if (code >= 0xD800 && code < 0xDC00) {
            if (!take('\\') || !take('u')) fail("the second half of a surrogate pair");
            const unsigned low = code_unit();
            if (low < 0xDC00 || low > 0xDFFF) fail("the second half of a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        if (code < 0x80) {
            out += char(code);
        } else if (code < 0x800) {
            out += {char(0xC0 | code >> 6), char(0x80 | (code & 63))};
        } else if (code < 0x10000) {
            out += {char(0xE0 | code >> 12), char(0x80 | (code >> 6 & 63)), char(0x80 | (code & 63))};
        } else {
            out += {char(0xF0 | code >> 18), char(0x80 | (code >> 12 & 63)), char(0x80 | (code >> 6 & 63)),
                    char(0x80 | (code & 63))};
        }
    }

    std::string characters() {
        if (!take('"')) fail("a string");
        std::string out;
        while (at_ < text_.size()) {
            const char c = text_[at_++];
            if (c == '"') return out;
            if ((unsigned char)c < 0x20) fail("no control character in a string");
            if (c == '\\')
                escaped(out);
            else
                out += c;
        }
        fail("the end of a string");
    }

    const std::string &text_;
    std::size_t at_ = 0;
};

Json Json::parse(const std::string &text) { return JsonReader(text).document(); }

void Json::require(Type type, const char *what) const {
    if (type_ != type) throw std::runtime_error(std::string("expected ") + what);
}

bool Json::boolean() const {
    require(Type::boolean, "true or false");
    return boolean_;
}

double Json::number() const {
    require(Type::number, "a number");
    return number_;
}

const std::string &Json::string() const {
    require(Type::string, "a string");
    return string_;
}

const std::vector<Json> &Json::array() const {
    require(Type::array, "an array");
    return array_;
}

const std::map<std::string, Json> &Json::object() const {
    require(Type::object, "an object");
    return object_;
}

const Json &Json::operator[](const std::string &name) const {
    static const Json nothing;
    const auto found = object().find(name);
    return found == object_.end() ? nothing : found->second;
}

} // namespace sciops
