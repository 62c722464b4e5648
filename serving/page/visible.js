// Text of a model as text: characters that would act (controls, direction marks, zero width) become signs.

const ACTING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

export function visible(text) {
  return text.replace(ACTING, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// A token in a cell of its own, where spaces and line ends would not be seen.
export function visibleToken(token) {
  return visible(token).replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}
