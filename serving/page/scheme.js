// Light, dark, or as the system; kept for the next visit.

const NAME = "ttc-scheme";

export function followScheme(select) {
  select.value = localStorage.getItem(NAME) ?? "";
  const apply = () => {
    document.documentElement.dataset.scheme = select.value;
    localStorage.setItem(NAME, select.value);
  };
  select.addEventListener("change", apply);
  apply();
}
