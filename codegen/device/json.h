// JSON (RFC 8259), read strictly: nothing after the value, no key twice, limits on depth and size.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace graphopt {

struct JsonValue {
    enum class Kind { null, boolean, integer, real, string, array, object };

    Kind kind = Kind::null;
    bool boolean = false;
    int64_t integer = 0;
    double real = 0;               // of an integer, too
    std::string text;              // UTF-8
    std::vector<JsonValue> items;  // an object's values, in the order of its keys
    std::vector<std::string> keys;
};

// A value and where it stands, so that whatever is wrong with it can be said.
class Json {
public:
    Json(const JsonValue& value, std::string where) : value_(&value), where_(std::move(where)) {}

    // Of an object: BadInput if it has no such member.
    Json operator[](std::string_view key) const;
    bool has(std::string_view key) const;
    // Of an array.
    std::vector<Json> items() const;
    // Of an object.
    const std::vector<std::string>& keys() const;

    bool is_null() const { return value_->kind == JsonValue::Kind::null; }
    bool boolean() const;
    // A whole number from `least` to `most`.
    int64_t integer(int64_t least, int64_t most) const;
    // A finite number.
    double real() const;
    const std::string& string() const;

    // Throws BadInput: where the value stands, and what is wrong with it.
    [[noreturn]] void wrong(const std::string& what) const;

private:
    void require(JsonValue::Kind kind, const char* name) const;

    const JsonValue* value_;
    std::string where_;
};

// BadInput: it is no JSON; `name` is how the message calls the text.
JsonValue parse_json(std::string_view text, const std::string& name);

// A text as JSON, with its quotes.
std::string json_string(std::string_view text);

}  // namespace graphopt
