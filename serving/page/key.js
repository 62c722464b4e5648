// The API key: in this tab's session storage and nowhere else.

const NAME = "ttc-key";

export function keptKey() {
  return sessionStorage.getItem(NAME) ?? "";
}

export function keepKey(key) {
  if (key === "") sessionStorage.removeItem(NAME);
  else sessionStorage.setItem(NAME, key);
}

export function keyHeaders() {
  const key = keptKey();
  return key === "" ? {} : { authorization: `Bearer ${key}` };
}
